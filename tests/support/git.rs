//! Git's own HTTP backend behind an origin.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use tokio::io::AsyncWriteExt as _;

use super::origin::{Origin, State};
use super::routes::{Body, text, whole};
use super::tools::command_output;

/// A bare repository with one commit on `main`, at `/git/<name>` of an origin.
pub struct Repository {
    pub path: PathBuf,
}

impl Repository {
    /// Makes it, in `directory`.
    pub fn new(origin: &Origin, directory: &Path, name: &str) -> Self {
        let root = directory.join("repositories");
        let path = root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let work = directory.join("first");
        git(directory, &["init", "--quiet", "--bare", "-b", "main", path.to_str().unwrap()]);
        git(directory, &["init", "--quiet", "-b", "main", work.to_str().unwrap()]);
        std::fs::write(work.join("README"), "hello\n").unwrap();
        git(&work, &["add", "README"]);
        git(&work, &["commit", "--quiet", "-m", "first"]);
        git(&work, &["push", "--quiet", path.to_str().unwrap(), "main"]);
        *origin.state.repositories.lock() = Some(root);
        Self { path }
    }

    /// The subjects of the commits on `main`, newest first.
    pub fn log(&self) -> Vec<String> {
        let log = git(&self.path, &["log", "--format=%s", "main"]);
        log.lines().map(str::to_owned).collect()
    }
}

/// Runs git in a directory, without anybody's configuration.
#[track_caller]
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(directory).args(arguments);
    plain(&mut command);
    command_output(&mut command)
}

/// Who commits, and no configuration but what is given.
pub fn plain(command: &mut Command) {
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs([("GIT_AUTHOR_NAME", "T"), ("GIT_AUTHOR_EMAIL", "t@test.invalid")])
        .envs([("GIT_COMMITTER_NAME", "T"), ("GIT_COMMITTER_EMAIL", "t@test.invalid")]);
}

/// Hands a request to `git http-backend` (RFC 3875), whose answer becomes the answer.
pub async fn serve(state: &Arc<State>, path: &str, parts: &Parts, body: &[u8]) -> Response<Body> {
    let root = state.repositories.lock().clone().expect("the origin has a repository");
    let field = |name: HeaderName| {
        let value = parts.headers.get(name);
        value.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).unwrap_or_default()
    };
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "agent")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", format!("/{path}"))
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", field(header::CONTENT_TYPE))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", field(header::CONTENT_ENCODING))
        .env("GIT_PROTOCOL", field(HeaderName::from_static("git-protocol")));
    plain(&mut command);
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = body.to_vec();
    let feeding = tokio::spawn(async move {
        // It need not read all of it.
        let _ = stdin.write_all(&input).await;
    });
    let output = child.wait_with_output().await.unwrap();
    let _ = feeding.await;
    let Some(end) = memchr::memmem::find(&output.stdout, b"\r\n\r\n") else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "git http-backend said nothing");
    };
    let head = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    let mut response = whole(StatusCode::OK, output.stdout[end + 4..].to_vec());
    for line in head.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            *response.status_mut() = value[..3].parse().unwrap();
        } else {
            let name: HeaderName = name.parse().unwrap();
            response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
    }
    response
}
