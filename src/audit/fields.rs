//! The fields of the two records that each request has, written by hand: through serde, which goes by
//! way of maps where records are flattened, they took four times as long. A test holds the two
//! writers to the same bytes; all other records are written by serde.

use std::net::SocketAddr;

use super::line::Line;
use crate::record::{Access, Decision, Event, Outcome, Peer, Use, Who};
use crate::reference::Name;

/// What a line says after time and kind.
pub(super) trait Fields {
    /// Appends `,"field":value…`.
    fn write(&self, line: &mut Line<'_>) -> serde_json::Result<()>;
}

impl Fields for Event {
    fn write(&self, line: &mut Line<'_>) -> serde_json::Result<()> {
        line.object(self)
    }
}

// Taken apart by name, so that a new field is not forgotten here.
impl Fields for Access<'_> {
    fn write(&self, line: &mut Line<'_>) -> serde_json::Result<()> {
        let Self {
            request_id,
            workspace,
            agent,
            peer,
            client_certificate,
            destination,
            method,
            path,
            websocket,
            method_override,
            rule,
            policy_generation,
            policy_digest,
            credential,
            more_credentials,
            unknown_reference,
            unknown_in,
            misplaced,
            decision,
            code,
            reason,
            shadow,
        } = self;
        line.id(b",\"request_id\":\"", request_id);
        line.option(b",\"workspace\":", workspace.map(crate::reference::Name::as_str))?;
        if let Some(agent) = agent {
            write_who(line, agent)?;
        }
        write_peer(line, *peer);
        if let Some(certificate) = client_certificate {
            line.value(b",\"client_certificate\":", certificate)?;
        }
        line.text(b",\"destination\":", destination)?;
        line.option(b",\"method\":", *method)?;
        line.option(b",\"path\":", *path)?;
        if *websocket {
            line.raw(b",\"websocket\":true");
        }
        line.option(b",\"method_override\":", *method_override)?;
        line.option(b",\"rule\":", *rule)?;
        line.number(b",\"policy_generation\":", *policy_generation);
        line.text(b",\"policy_digest\":", policy_digest)?;
        if let Some(credential) = credential {
            write_use(line, credential)?;
        }
        if !more_credentials.is_empty() {
            line.value(b",\"more_credentials\":", more_credentials)?;
        }
        line.option(b",\"unknown_reference\":", unknown_reference.map(Name::as_str))?;
        line.option(b",\"unknown_in\":", *unknown_in)?;
        if *misplaced > 0 {
            line.number(b",\"misplaced\":", *misplaced as u64);
        }
        line.raw(match decision {
            Decision::Permit => b",\"decision\":\"permit\"",
            Decision::Refuse => b",\"decision\":\"refuse\"",
        });
        line.option(b",\"code\":", code.map(crate::outcome::Code::as_str))?;
        line.option(b",\"reason\":", *reason)?;
        match shadow {
            Some(shadow) => line.value(b",\"shadow\":", shadow),
            None => Ok(()),
        }
    }
}

fn write_who(line: &mut Line<'_>, who: &Who<'_>) -> serde_json::Result<()> {
    let Who {
        workspace,
        agent,
        token_id,
        authenticated_by,
        run,
        node,
        user,
        environment,
        labels,
        run_token_use,
    } = who;
    line.text(b",\"workspace\":", workspace.as_str())?;
    line.text(b",\"agent\":", agent.as_str())?;
    line.text(b",\"token_id\":", token_id)?;
    line.text(b",\"authenticated_by\":", authenticated_by)?;
    line.option(b",\"run\":", run.map(crate::agent::Label::as_str))?;
    line.option(b",\"node\":", node.map(crate::agent::Label::as_str))?;
    line.option(b",\"user\":", user.map(crate::agent::Label::as_str))?;
    line.option(b",\"environment\":", environment.map(crate::reference::Name::as_str))?;
    if let Some(labels) = labels {
        line.value(b",\"labels\":", labels)?;
    }
    if let Some(uses) = run_token_use {
        line.value(b",\"run_token_use\":", uses)?;
    }
    Ok(())
}

fn write_use(line: &mut Line<'_>, used: &Use) -> serde_json::Result<()> {
    let Use { credential, version, slot, why } = used;
    line.text(b",\"credential\":", credential.as_str())?;
    if let Some(version) = version {
        line.number(b",\"version\":", u64::from(*version));
    }
    line.option(b",\"slot\":", slot.as_deref())?;
    if !why.is_plain() {
        line.text(b",\"chosen_by\":", &why.to_string())?;
    }
    Ok(())
}

fn write_peer(line: &mut Line<'_>, peer: Option<Peer>) {
    match peer {
        Some(Peer::Tcp(SocketAddr::V4(peer))) => {
            let [a, b, c, d] = peer.ip().octets();
            line.number(b",\"peer\":\"", u64::from(a));
            for octet in [b, c, d] {
                line.number(b".", u64::from(octet));
            }
            line.number(b":", u64::from(peer.port()));
            line.raw(b"\"");
        }
        Some(peer) => {
            line.raw(b",\"peer\":\"");
            line.raw(peer.to_string().as_bytes());
            line.raw(b"\"");
        }
        None => line.raw(b",\"peer\":null"),
    }
}

impl Fields for Outcome {
    fn write(&self, line: &mut Line<'_>) -> serde_json::Result<()> {
        let Self {
            request_id,
            ending,
            code,
            status,
            complaint,
            bytes_up,
            bytes_down,
            scrubbed,
            unsearched,
            misplaced,
            upstream_us,
            total_us,
        } = self;
        line.id(b",\"request_id\":\"", request_id);
        line.value(b",\"ending\":", ending)?;
        line.option(b",\"code\":", code.map(crate::outcome::Code::as_str))?;
        if let Some(status) = status {
            line.number(b",\"status\":", u64::from(*status));
        }
        line.option(b",\"complaint\":", complaint.map(crate::outcome::Complaint::as_str))?;
        line.number(b",\"bytes_up\":", *bytes_up);
        line.number(b",\"bytes_down\":", *bytes_down);
        if *scrubbed > 0 {
            line.number(b",\"scrubbed\":", *scrubbed);
        }
        if *unsearched {
            line.raw(b",\"unsearched\":true");
        }
        if *misplaced > 0 {
            line.number(b",\"misplaced\":", *misplaced);
        }
        if let Some(upstream) = upstream_us {
            line.number(b",\"upstream_us\":", *upstream);
        }
        line.number(b",\"total_us\":", *total_us);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use serde::Serialize;

    use super::*;
    use crate::audit::line::{Kind, body};
    use crate::outcome::{Code, Complaint, Ending};
    use crate::record::RequestId;
    use crate::record::{ShadowDecision, Why};

    /// The same record through serde.
    struct BySerde<'a, T>(&'a T);

    impl<T: Serialize> Fields for BySerde<'_, T> {
        fn write(&self, line: &mut Line<'_>) -> serde_json::Result<()> {
            line.object(self.0)
        }
    }

    fn same<T: Fields + Serialize>(kind: Kind, record: &T) -> String {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        body(&mut ours, kind, UNIX_EPOCH, record).unwrap();
        body(&mut theirs, kind, UNIX_EPOCH, &BySerde(record)).unwrap();
        let [ours, theirs] = [ours, theirs].map(|line| String::from_utf8(line).unwrap());
        assert_eq!(ours, theirs);
        ours
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,40}",
            "\\PC{0,20}",
            any::<String>(),
            Just("\u{202e}\u{7f}\"\\\n\u{0}".repeat(2000)),
            Just("x".repeat(70_000)),
            Just("\"".repeat(5000)),
        ]
    }

    fn name() -> impl Strategy<Value = crate::reference::Name> {
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?".prop_map(|text| text.parse().unwrap())
    }

    fn peer() -> impl Strategy<Value = Peer> {
        let tcp = any::<SocketAddr>().prop_map(Peer::Tcp);
        let user = |(uid, gid)| crate::agent::UnixUser { uid, gid };
        let unix = any::<Option<(u32, u32)>>();
        prop_oneof![tcp, unix.prop_map(move |pair| Peer::Unix(pair.map(user)))]
    }

    fn uses() -> impl Strategy<Value = Vec<Use>> {
        let why = any::<(bool, bool, bool, Option<u16>)>().prop_map(|(tier, pool, run, after)| {
            let tier = tier.then_some(crate::credential::Tier::Builder);
            Why { tier, node: pool, pool, value: run, run, unasked: run && pool, after }
        });
        let one = (name(), any::<Option<u32>>(), prop::option::of(text()), why);
        let one =
            one.prop_map(|(credential, version, slot, why)| Use { credential, version, slot, why });
        prop::collection::vec(one, 0..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn an_access_is_written_as_serde_would(
            texts in prop::collection::vec(text(), 5),
            given in prop::collection::vec(any::<bool>(), 8),
            names in (name(), name()),
            label in "[A-Za-z0-9._:@/=-]{1,128}",
            uses in uses(),
            peer in prop::option::of(peer()),
            numbers in any::<(u64, usize, [u8; 16])>(),
        ) {
            let label: crate::agent::Label = label.parse().unwrap();
            let labels = [("team".parse().unwrap(), label.clone()), ("a/b".parse().unwrap(), label.clone())];
            let labels = crate::agent::Labels::new(labels).unwrap();
            let some = |at: usize, text: usize| given[at].then(|| texts[text].as_str());
            let run_uses = [names.0.clone(), names.1.clone()];
            let who = Who {
                workspace: &names.0,
                agent: &names.1,
                token_id: &texts[0],
                authenticated_by: "token",
                run: given[0].then_some(&label),
                node: given[1].then_some(&label),
                user: given[2].then_some(&label),
                environment: given[3].then_some(&names.1),
                labels: given[4].then_some(&labels),
                run_token_use: given[5].then_some(&run_uses[..]),
            };
            let certificate = crate::agent::certificate::ClientCertificate {
                serial: "0a".into(),
                issuer: Box::default(),
                subject: texts[2].as_str().into(),
                common_names: [].into(),
                dns: [texts[3].as_str().into()].into(),
                uris: [].into(),
                emails: [].into(),
                not_after: 0,
                standing: None,
            };
            let record = Access {
                request_id: RequestId(numbers.2),
                workspace: (!given[3] && given[0]).then_some(&names.0),
                agent: given[3].then_some(who),
                peer,
                client_certificate: given[6].then_some(&certificate),
                destination: &texts[1],
                method: some(4, 2),
                path: some(5, 3),
                websocket: given[2],
                method_override: some(1, 3),
                rule: some(6, 4),
                policy_generation: numbers.0,
                policy_digest: "0011",
                credential: uses.first(),
                more_credentials: uses.get(1..).unwrap_or_default(),
                unknown_reference: given[6].then_some(&names.1),
                unknown_in: some(0, 2),
                misplaced: if given[7] { numbers.1 } else { 0 },
                decision: if given[0] { Decision::Permit } else { Decision::Refuse },
                code: given[1].then_some(Code::NotAllowed),
                reason: given[2].then_some("why"),
                shadow: given[5].then_some(ShadowDecision {
                    rule: some(6, 4),
                    code: given[1].then_some(Code::NotAllowed),
                }),
            };
            let line = same(Kind::Access, &record) + "}";
            prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok());
        }

        #[test]
        fn an_outcome_is_written_as_serde_would(
            numbers in any::<([u64; 4], Option<u64>, Option<u16>, [u8; 16])>(),
            ending in 0_usize..4,
            refused in any::<bool>(),
        ) {
            let ([bytes_up, bytes_down, scrubbed, total_us], upstream_us, status, id) = numbers;
            let endings = [
                Ending::Complete,
                Ending::UpstreamAborted,
                Ending::DownstreamAborted,
                Ending::Failed,
            ];
            same(Kind::Outcome, &Outcome {
                request_id: RequestId(id),
                ending: endings[ending],
                code: refused.then_some(Code::UpstreamFailed),
                status,
                complaint: [
                    None,
                    Some(Complaint::NotAccepted),
                    Some(Complaint::OutOfQuota),
                    Some(Complaint::RateLimited),
                ][usize::from(id[0] % 4)],
                bytes_up,
                bytes_down,
                scrubbed: scrubbed % 2,
                unsearched: scrubbed % 4 > 1,
                misplaced: scrubbed % 3,
                upstream_us,
                total_us,
            });
        }
    }
}
