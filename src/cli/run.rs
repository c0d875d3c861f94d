//! `locum run -- COMMAND`: a program as an agent, with no change to it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::keys::{Keep, real_keys, warn_withheld};
use super::{output, runtime};
use crate::agent::{Context, Label, Proof, UserName};
use crate::app::{
    Failure, Home, Joined, Opened, Relay, Session, SessionOptions, SessionToken, answering,
    end_session, join, mint_session, mint_session_in, plan_session, serve_shared,
};
use crate::reference::Name;
use crate::tls::CaInfo;

/// Arguments of `locum run`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum run --agent researcher -- python agent.py\n  locum run --agent ci --run 42 --user alice -- npm test"
)]
pub(super) struct Args {
    /// The agent that the program is
    #[arg(long, value_name = "NAME")]
    agent: Name,
    /// Names this run in the audit log; made up when left out
    #[arg(long, value_name = "ID")]
    run: Option<Label>,
    /// Names the step of the run
    #[arg(long, value_name = "NAME")]
    node: Option<Label>,
    /// The person on whose behalf it runs
    #[arg(long, value_name = "NAME")]
    user: Option<Label>,
    /// The environment whose values it gets (`locum value`), and no other's; by default those of none
    #[arg(long, value_name = "NAME")]
    environment: Option<Name>,
    /// Also open a loopback port without authentication, for clients that never send proxy
    /// credentials (the JVM, Chromium); its identity is this run alone. The JVM is told of it, others
    /// find it in `LOCUM_OPEN_PROXY`
    #[arg(long)]
    open_port: bool,
    #[command(flatten)]
    keep: Keep,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A run's token ends with the run. Should this process be killed, it ends by itself.
const TOKEN_LIFE: Duration = Duration::from_hours(168);

pub(super) fn run(home: &Home, args: &Args) -> Result<ExitCode, Failure> {
    let mut opened = Opened::open(home)?;
    let settings = super::value::settings(&opened, args.environment.as_ref())?;
    let user = user_name(args)?;
    let (token, proof) = mint(&mut opened, args, &user)?;
    let result = runtime().and_then(|runtime| {
        runtime.block_on(serve_and_run(opened, args, (&user, settings), &token))
    });
    end_token(home, &args.agent, (&token.0, &proof));
    result
}

/// Is the private proxy that runs of a home share, as the run that starts it asks.
pub(super) fn shared_proxy(home: &Home) -> Result<(), Failure> {
    let first = std::io::stdin().as_fd().try_clone_to_owned();
    let first = first.map_err(|e| Failure::new(format!("standard input: {e}")))?;
    runtime()?.block_on(async {
        serve_shared(home, UnixStream::from(first), super::serve::stop_signal()?).await
    })
}

/// A token of the agent's own, or one that fixes the environment.
fn mint(
    opened: &mut Opened,
    args: &Args,
    user: &UserName,
) -> Result<(SessionToken, Proof), Failure> {
    if let Some(environment) = &args.environment {
        return mint_session_in(opened, user, environment, TOKEN_LIFE);
    }
    let expires = Some(super::agent::from_now(TOKEN_LIFE));
    let note = format!("run {}", user.context.run.as_ref().map_or("", Label::as_str));
    Ok((mint_session(opened, &args.agent, expires, &note)?, Proof::Token))
}

fn user_name(args: &Args) -> Result<UserName, Failure> {
    let run = match &args.run {
        Some(run) => run.clone(),
        None => random_run()?,
    };
    let context = Context { run: Some(run), node: args.node.clone(), user: args.user.clone() };
    Ok(UserName { agent: args.agent.clone(), context })
}

fn random_run() -> Result<Label, Failure> {
    let mut bytes = [0; 5];
    let failed = || Failure::new("the system has no randomness");
    getrandom::fill(&mut bytes).map_err(|_| failed())?;
    data_encoding::BASE32_DNSSEC.encode(&bytes).parse().map_err(|_| failed())
}

/// Takes the token back. The run is over either way.
fn end_token(home: &Home, agent: &Name, (id, proof): (&str, &Proof)) {
    let ended =
        Opened::open(home).and_then(|mut opened| end_session(&mut opened, agent, id, proof));
    if let Err(failure) = ended {
        output::note(&format!("locum: the run's token could not be revoked: {failure}"));
    }
}

async fn serve_and_run(
    opened: Opened,
    args: &Args,
    (user, settings): (&UserName, BTreeMap<String, String>),
    token: &SessionToken,
) -> Result<ExitCode, Failure> {
    let home = opened.home.clone();
    let credentials = opened.vault.credentials()?;
    let bundle = opened.write_certificates()?;
    let real_keys = real_keys(&opened, &args.keep)?;
    let (proxy, ca, joined) = proxy_of(&opened).await?;
    warn_other_ca(&opened, ca.as_deref(), joined.is_some())?;
    // The keys are not needed any more, and the program may run for days.
    drop(opened);
    let open_port =
        if args.open_port { Some(Relay::start(proxy, user, &token.1).await?) } else { None };
    let state = home.clients().join(&token.0);
    let options =
        SessionOptions { user, proxy, open_port, state: state.clone(), settings, real_keys };
    let session = plan_session(&credentials, &home, bundle, token, &options)?;
    warn_contested(&session);
    warn_withheld(&session.withheld);
    session.write_files()?;
    let status = run_child(&args.command, &session, open_port).await;
    if let Some(joined) = joined {
        joined.leave().await;
    }
    // The files name a token that is no longer valid.
    let _ = std::fs::remove_dir_all(&state);
    status.map(exit_code)
}

/// The proxy that runs on this home; else a private one, which all runs of the home share.
async fn proxy_of(
    opened: &Opened,
) -> Result<(SocketAddr, Option<String>, Option<Joined>), Failure> {
    if let Some(serving) = answering(opened) {
        return Ok((serving.clear()?, serving.ca, None));
    }
    match join(opened, output::note).await {
        Ok(joined) => Ok((joined.proxy, joined.ca.clone(), Some(joined))),
        // One was started at the same moment.
        Err(failure) => match answering(opened) {
            Some(serving) => Ok((serving.clear()?, serving.ca, None)),
            None => Err(failure),
        },
    }
}

/// The program believes the CA of today; a proxy shows the one that it was started with.
fn warn_other_ca(opened: &Opened, shown: Option<&str>, private: bool) -> Result<(), Failure> {
    let own = CaInfo::read(&opened.certificate()?)?.fingerprint();
    if shown.is_some_and(|shown| shown != own) {
        let next =
            if private { "end the other `locum run`s of this home" } else { "start it again" };
        output::note(&format!(
            "locum: the proxy has the CA from before `locum ca rotate`, and this program will not trust it: {next}"
        ));
    }
    Ok(())
}

fn warn_contested(session: &Session) {
    for variable in &session.plan.contested {
        output::note(&format!(
            "locum: several credentials want {variable}; the first one has it (see `--env` of `locum credential add`)"
        ));
    }
}

/// Tells the program where the open port is: no standard variable does.
const OPEN_PROXY: &str = "LOCUM_OPEN_PROXY";

async fn run_child(
    command: &[OsString],
    session: &Session,
    open_port: Option<SocketAddr>,
) -> Result<ExitStatus, Failure> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| Failure::usage("there is no command"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(session.environment())
        .envs(open_port.map(|address| (OPEN_PROXY, format!("http://{address}"))))
        .spawn()
        .map_err(|e| Failure::new(format!("{} cannot be started: {e}", program.display())))?;
    wait(&mut child).await
}

/// Waits for the program, and passes signals on to it. Ctrl-C on a terminal reaches the program by
/// itself, and is only survived here.
async fn wait(child: &mut Child) -> Result<ExitStatus, Failure> {
    use std::io::IsTerminal as _;
    let listen =
        |kind| signal(kind).map_err(|e| Failure::new(format!("signals cannot be waited for: {e}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let mut quit = listen(SignalKind::quit())?;
    let mut user1 = listen(SignalKind::user_defined1())?;
    let mut user2 = listen(SignalKind::user_defined2())?;
    let on_terminal = std::io::stdin().is_terminal();
    loop {
        use rustix::process::Signal;
        let received = tokio::select! {
            status = child.wait() => {
                return status.map_err(|e| Failure::new(format!("the program cannot be waited for: {e}")));
            }
            _ = terminate.recv() => Signal::TERM,
            _ = hangup.recv() => Signal::HUP,
            _ = user1.recv() => Signal::USR1,
            _ = user2.recv() => Signal::USR2,
            _ = quit.recv() => if on_terminal { continue } else { Signal::QUIT },
            _ = interrupt.recv() => if on_terminal { continue } else { Signal::INT },
        };
        pass_on(child, received);
    }
}

fn pass_on(child: &Child, signal: rustix::process::Signal) {
    let pid =
        child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// The program's own code; for a signal 128 and its number, as shells have it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1))
}
