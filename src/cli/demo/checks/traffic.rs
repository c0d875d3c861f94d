//! Attacks by what an agent sends, and by what an origin answers.

use super::{Facts, Outcome, Told};
use crate::app::Failure;
use crate::cli::demo::client::{Ask, Via};
use crate::cli::demo::forms;
use crate::cli::demo::stage::{AGENT, ANTHROPIC, COLLECTOR, OPENAI, Stage};
use crate::cli::demo::story::everyday;
use crate::token::Token;

const NOTHING_SEEN: &str = "the origin saw nothing";

pub(super) async fn no_token(stage: &mut Stage) -> Outcome {
    let ask = everyday().via(Via::Proxy(stage.proxy_url()));
    at_the_door(stage, &ask).await
}

/// A token in the right form, that nobody was given.
pub(super) async fn wrong_token(stage: &mut Stage) -> Outcome {
    let token = Token::mint().map_err(|_| Failure::new("the system has no randomness"))?;
    let url = stage.proxy_url().replace("//", &format!("//{AGENT}:{}@", *token.into_text()));
    at_the_door(stage, &everyday().via(Via::Proxy(url))).await
}

async fn at_the_door(stage: &mut Stage, ask: &Ask) -> Outcome {
    let mut facts = Facts::default();
    let told = Told::ask(stage, ask).await?;
    told.note(&mut facts, 407, "proxy-auth-required");
    let asked_back = told.answer.headers.iter().any(|(name, _)| name == "proxy-authenticate");
    facts.note(asked_back && told.answer.no_tunnel, "no tunnel", "no challenge, or a tunnel");
    told.note_untouched(&mut facts, NOTHING_SEEN);
    Ok(facts)
}

/// The agent sends one provider's placeholder to another's host, and to one that the policy allows.
pub(super) async fn other_host(stage: &mut Stage) -> Outcome {
    const ALERT: &str = "locum_unbound_references_total";
    let mut facts = Facts::default();
    let before = stage.counter(ALERT).await?;
    for host in [COLLECTOR, ANTHROPIC] {
        let ask = Ask::new("GET", format!("https://{host}/v1/models"))
            .header("authorization", "Bearer ${OPENAI_API_KEY}");
        let told = Told::ask(stage, &ask).await?;
        told.note(&mut facts, 403, "credential-refused");
        told.note_untouched(&mut facts, &format!("{host} saw nothing"));
    }
    let alerts = stage.counter(ALERT).await?.saturating_sub(before);
    facts.note(alerts == 2, "the alert counted 2", format!("the alert counted {alerts}, not 2"));
    Ok(facts)
}

/// The tunnel leads to one host, and the request in it names another.
pub(super) async fn other_authority(stage: &mut Stage) -> Outcome {
    let mut facts = Facts::default();
    let told = Told::ask(stage, &everyday().host(COLLECTOR)).await?;
    told.note(&mut facts, 421, "authority-mismatch");
    facts.note(!told.answer.no_tunnel, "inside the tunnel", "outside the tunnel");
    told.note_untouched(&mut facts, "neither host saw it");
    Ok(facts)
}

/// The origin sends the key back in every form, in a header, whole, and cut at every byte.
pub(super) async fn echo(stage: &mut Stage) -> Outcome {
    const WAYS: [&str; 4] = ["as=header", "as=length", "as=chunks", "as=bytes"];
    let mut facts = Facts::default();
    let scrubbed = stage.counter("locum_scrubbed_total").await?;
    let mut bytes = 0;
    for way in WAYS {
        let ask = Ask { url: format!("https://{OPENAI}/echo?{way}"), ..everyday() };
        let answer = stage.agent.ask(&ask).await?;
        // Unless the search finds every form that was sent, its silence means nothing.
        let sent = stage.openai.last().unwrap_or_default().echoed;
        let found = sent.iter().filter(|form| !stage.search.is_clean(form)).count();
        if answer.status != 200 || found != forms::COUNT {
            let told = answer.in_words();
            let problem = format!("{way}: {found} of {} forms sent; {told}", forms::COUNT);
            facts.note(false, "", problem);
        }
        let mut leaks = stage.search.found_in(&answer.wire);
        leaks.extend(stage.search.found_in(&answer.body));
        if !leaks.is_empty() {
            facts.note(false, "", format!("{way}: the agent got the key: {}", leaks.join(", ")));
        }
        bytes += answer.wire.len();
    }
    let scrubbed = stage.counter("locum_scrubbed_total").await?.saturating_sub(scrubbed);
    let sent =
        format!("sent in {} forms, in headers, whole, in chunks of 7 bytes and of 1", forms::COUNT);
    facts.note(true, sent, "");
    let removed = format!("{scrubbed} removed, none in the {bytes} bytes that the agent got");
    facts.note(scrubbed > 0, removed, "nothing was removed");
    Ok(facts)
}

/// Every name that leads to this machine, and a cloud's metadata service.
pub(super) async fn private_address(stage: &mut Stage) -> Outcome {
    let mut facts = Facts::default();
    let failed = |e: std::io::Error| Failure::new(format!("the canary: {e}"));
    let port = stage.canary.local_addr().map_err(failed)?.port();
    let hosts = ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "169.254.169.254"];
    for host in hosts {
        let ask = Ask::new("GET", format!("https://{host}:{port}/"));
        let told = Told::ask(stage, &ask).await?;
        told.note(&mut facts, 403, "address-forbidden");
        facts.note(told.answer.no_tunnel, format!("for {} spellings", hosts.len()), "a tunnel");
    }
    let touched = stage.canary.accept().is_ok();
    // The canary sings: it would have seen a connection.
    let _one = std::net::TcpStream::connect(("127.0.0.1", port)).map_err(failed)?;
    let sings = (0..100).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        stage.canary.accept().is_ok()
    });
    facts.note(
        !touched && sings,
        "a listener on 127.0.0.1 was never touched",
        if touched { "a listener on 127.0.0.1 was touched" } else { "the canary does not sing" },
    );
    Ok(facts)
}

/// The proxy connects neither to itself nor to its operations.
pub(super) async fn own_ports(stage: &mut Stage) -> Outcome {
    let mut facts = Facts::default();
    let serving = stage.serving.clone();
    for address in serving.proxy.into_iter().chain(serving.ops) {
        let ask = Ask::new("GET", format!("https://{address}/metrics"));
        let told = Told::ask(stage, &ask).await?;
        told.note(&mut facts, 508, "proxy-loop");
        let ports = "for the proxy port and the operations port";
        facts.note(told.answer.no_tunnel, ports, format!("a tunnel to {address}"));
    }
    Ok(facts)
}
