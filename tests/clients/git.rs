//! git with a private repository, beyond a placeholder in its URL or its helper: with none at all,
//! and under a rule that only reads.

use super::*;

fn forge(prepare: impl Fn(&Home)) -> (World, Repository) {
    let to = ["--to", "https://git.test", "--basic", "x-access-token"];
    let world = World::before(Origin::start("git.test"), "forge", &to, prepare);
    let repository = Repository::new(&world.origin, &world.home.work(), "repo.git");
    (world, repository)
}

fn sh(world: &World, text: &str, arguments: &[&str]) -> Command {
    let mut command = world.run("sh".as_ref());
    command.arg("-c").arg(text).arg("sh").args(arguments);
    support::plain_git(&mut command);
    command
}

#[test]
fn git_without_a_placeholder_where_the_rule_injects_always() {
    let (world, repository) = forge(|home| {
        home.policy(
            "version: 1\nrules:\n- {name: git, agents: [worker], to: ['https://git.test'], use: [forge], inject: always}\n",
        );
    });
    let url = "https://git.test/git/repo.git";
    let ran = run(&mut sh(&world, GIT, &[url, repository.path.to_str().unwrap()]), b"").ok();
    assert_eq!(repository.log(), ["second", "first"]);
    assert!(ran.out.contains("origin/other"), "{}", ran.out);
    let seen = world.origin.seen();
    // git asked without anything, and was not asked back.
    for one in &seen {
        assert_eq!(one.header("authorization"), Some(&*basic("x-access-token", &world.key)));
    }
    let ran = Ran { out: ran.out + "locum_forge", ..ran };
    world.holds(&ran, seen.len());
}

#[test]
fn git_under_a_rule_that_reads_clones_and_fetches_and_does_not_push() {
    let (world, repository) = forge(|home| {
        home.policy(
            "version: 1\nrules:\n\
             - {name: list, agents: [worker], to: ['https://git.test'], methods: [GET], paths: ['/git/*/info/refs'], query: {service: git-upload-pack}, use: [forge]}\n\
             - {name: fetch, agents: [worker], to: ['https://git.test'], methods: [POST], paths: ['/git/*/git-upload-pack'], use: [forge]}\n",
        );
    });
    let reads = "set -e\ngit clone -q \"$1\" clone\ncd clone\ngit -C \"$2\" update-ref refs/heads/other main\ngit fetch -q && git branch -r\n";
    let url = "https://agent:locum_forge@git.test/git/repo.git";
    let path = repository.path.to_str().unwrap();
    let ran = run(&mut sh(&world, reads, &[url, path]), b"").ok();
    assert!(ran.out.contains("origin/other"), "{}", ran.out);
    let before = world.origin.seen().len();
    // The first of its two requests is refused, and so would be the second.
    let push = "cd clone && git commit -q --allow-empty -m second && git push origin main";
    let mut command = sh(&world, push, &[]);
    let ran = run(&mut command, b"");
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("403"), "{}", ran.err);
    assert_eq!(repository.log(), ["first"]);
    assert_eq!(world.origin.seen().len(), before, "nothing of the push went up");
    let refused: Vec<_> =
        world.home.audit().into_iter().filter(|r| r["code"] == "not-allowed").collect();
    assert!(refused.iter().any(|r| r["path"] == "/git/repo.git/info/refs"), "{refused:?}");

    let serve = world.serve.as_ref().unwrap();
    let agent = world.home.agent("worker");
    let field = format!("Authorization: {}", basic("agent", "locum_forge"));
    for (method, target) in [
        ("GET", "/git/repo.git/info/refs?service=git-receive-pack"),
        ("GET", "/git/repo.git/info/refs?service=git-upload-pack&service=git-receive-pack"),
        ("GET", "/git/repo.git/info/refs"),
        ("POST", "/git/repo.git/git-receive-pack"),
    ] {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: git.test\r\n{field}\r\n\r\n");
        let answer = serve.tunnel(&agent, "git.test").ask(head);
        assert_eq!(answer.status, 403, "{target}: {}", answer.text());
    }
    assert_eq!(world.origin.seen().len(), before);
}

#[test]
fn the_origins_own_question_for_credentials_comes_through() {
    let (world, _repository) = forge(|_| {});
    let serve = world.serve.as_ref().unwrap();
    let agent = world.home.agent("worker");
    let head =
        "GET /git/repo.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: git.test\r\n\r\n";
    let answer = serve.tunnel(&agent, "git.test").ask(head);
    assert_eq!(answer.status, 401, "{}", answer.text());
    assert!(answer.header("www-authenticate").is_some_and(|v| v.starts_with("Basic")));
    assert!(answer.header("proxy-status").is_none(), "it is the origin's own answer");
}
