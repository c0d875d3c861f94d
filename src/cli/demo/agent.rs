//! The agent of the demo: a process of its own that `locum run` starts, and that knows nothing but
//! its environment. It makes the requests that it is told on its standard input, line by line, and
//! writes what came back to its standard output.

use std::io::{self, BufRead as _, Write as _};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use super::client::{Answer, Ask, Client, missing};
use super::stage::command;
use crate::app::{Failure, Home};

/// Arguments of the hidden `locum demo-agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  locum demo")]
pub(in crate::cli) struct AgentArgs {}

/// The first line: who it is, and all that it was given.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) pid: u32,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
}

impl Hello {
    fn of_this_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self {
            pid: std::process::id(),
            arguments: std::env::args_os().map(text).collect(),
            environment: std::env::vars_os().map(|(k, v)| (text(k), text(v))).collect(),
        }
    }

    /// All of it, for a search.
    fn everything(&self) -> Vec<u8> {
        let variables = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let lines: Vec<String> = variables.chain(self.arguments.iter().cloned()).collect();
        lines.join("\n").into_bytes()
    }

    /// A variable that it holds.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A line after the first.
type Reply = Result<Answer, String>;

/// Runs the agent until its standard input ends.
pub(in crate::cli) fn act(_: &AgentArgs) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::new(format!("the demo's agent stopped: {error}"));
    obey().map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

fn obey() -> io::Result<()> {
    let hello = Hello::of_this_process();
    // One thread serves the connections while this one waits for the next line.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let roots =
        std::fs::read(hello.variable("SSL_CERT_FILE").ok_or_else(|| missing("SSL_CERT_FILE"))?)?;
    let roots = crate::environment::certificates(&roots);
    let mut client = Client::new(roots, hello.variable("HTTPS_PROXY").map(str::to_owned))?;
    say(&hello)?;
    for line in io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let call = async { client.call(&expand(ask, &hello)?).await };
        let reply: Reply = match runtime.block_on(async { timeout(CALL, call).await }) {
            Ok(reply) => reply.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {CALL:?}")),
        };
        say(&reply)?;
    }
    Ok(())
}

fn say(what: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Puts the agent's own variables where `${NAME}` stands, as its program would.
fn expand(mut ask: Ask, hello: &Hello) -> io::Result<Ask> {
    for (_, value) in &mut ask.headers {
        let Some((before, rest)) = value.split_once("${") else { continue };
        let Some((name, after)) = rest.split_once('}') else { continue };
        let held = hello.variable(name).ok_or_else(|| missing(name))?;
        *value = format!("{before}{held}{after}");
    }
    Ok(ask)
}

/// The agent's process, as the demo sees it. Killed when dropped.
pub(super) struct Agent {
    pub(super) hello: Hello,
    /// Every byte that the agent ever had: its environment, and all that came back to it.
    pub(super) had: Vec<u8>,
    // Order of fields: the agent ends when its input does, and `locum run` with it.
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _run: Child,
}

/// For one request: several times what a busy machine takes.
const CALL: Duration = Duration::from_secs(10);

/// The agent gives up a call by itself; one that says nothing for longer is gone.
const PATIENCE: Duration = Duration::from_secs(20);

impl Agent {
    /// Starts the agent as everybody would, with `locum run`.
    pub(super) async fn start(home: &Home, name: &str) -> Result<Self, Failure> {
        let program = std::env::current_exe()
            .map_err(|e| Failure::new(format!("this program does not know its own file: {e}")))?;
        let mut run = command(home, &["run", "--agent", name, "--run", "demo", "--"])?;
        run.arg(program).arg("demo-agent").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut run = run.spawn().map_err(|e| Failure::new(format!("the agent: {e}")))?;
        let (Some(input), Some(output)) = (run.stdin.take(), run.stdout.take()) else {
            return Err(Failure::new("the agent has no pipes"));
        };
        let mut output = BufReader::new(output).lines();
        let hello: Hello = read(&mut output).await?;
        let had = hello.everything();
        Ok(Self { hello, had, input, output, _run: run })
    }

    /// What it was started with.
    pub(super) fn had_at_start(&self) -> Vec<u8> {
        self.hello.everything()
    }

    /// Has it make a request.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let mut line = serde_json::to_vec(ask)
            .map_err(|e| Failure::new(format!("a request cannot be written: {e}")))?;
        line.push(b'\n');
        let gone = |e| Failure::new(format!("the agent is gone: {e}"));
        self.input.write_all(&line).await.map_err(gone)?;
        self.input.flush().await.map_err(gone)?;
        let reply: Reply = read(&mut self.output).await?;
        let answer = reply.map_err(|e| Failure::new(format!("{} {}: {e}", ask.method, ask.url)))?;
        self.had.extend_from_slice(&answer.wire);
        // Framing may have cut a key in two on the wire; without it, it is whole.
        self.had.extend_from_slice(&answer.body);
        Ok(answer)
    }
}

async fn read<T: for<'de> Deserialize<'de>>(
    output: &mut Lines<BufReader<ChildStdout>>,
) -> Result<T, Failure> {
    let line = timeout(PATIENCE, output.next_line()).await;
    let line = line.map_err(|_| Failure::new("the agent says nothing"))?;
    let line = line.ok().flatten().ok_or_else(|| Failure::new("the agent ended early"))?;
    serde_json::from_str(&line).map_err(|e| Failure::new(format!("the agent talks nonsense: {e}")))
}
