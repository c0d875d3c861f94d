//! By the certificate that was shown at the door, which a CA of the config has vouched for.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Admit, Authenticate, Denied, Directory, Shown};
use crate::agent::certificate::{ClientCertificate, RevocationList};
use crate::agent::mapping::Mapping;
use crate::agent::{Identity, Labels, Proof};
use crate::reference::Name;

/// Which of a certificate's names says who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameIn {
    /// Its SPIFFE id, of this trust domain.
    Spiffe(Box<str>),
    /// Any URI.
    Uri,
    /// The name of a host.
    Dns,
    /// A mail address.
    Email,
    /// The common name of the subject.
    CommonName,
}

/// Knows clients by their certificates.
#[derive(Debug)]
pub struct ByCertificate {
    directory: Directory,
    /// Where agents are of whom the mapping does not say.
    workspace: Name,
    name: NameIn,
    map: Mapping,
    admit: Admit,
    /// What the CAs have taken back. The handshake looks at it, too; a connection outlives that.
    revoked: Arc<[RevocationList]>,
}

/// What a certificate's names come to.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// None of them is known here.
    Nobody,
    /// One agent, of a workspace.
    One(Name, Name),
    /// More than one.
    Several,
}

impl ByCertificate {
    /// By this name, through this mapping.
    #[must_use]
    pub fn new(
        directory: Directory,
        workspace: Name,
        (name, map): (NameIn, Mapping),
        admit: Admit,
    ) -> Self {
        Self { directory, workspace, name, map, admit, revoked: Arc::default() }
    }

    /// The same, without what these lists take back.
    #[must_use]
    pub fn without(self, revoked: Arc<[RevocationList]>) -> Self {
        Self { revoked, ..self }
    }

    fn find(&self, certificate: &ClientCertificate) -> Found {
        let spiffe = |domain: &str| {
            let id = certificate.spiffe_id().filter(|id| id.trust_domain == domain);
            id.map(|id| Box::<str>::from(id.text)).into_iter().collect()
        };
        let names: Cow<'_, [Box<str>]> = match &self.name {
            NameIn::Spiffe(domain) => Cow::Owned(spiffe(domain)),
            NameIn::Uri => Cow::Borrowed(&*certificate.uris),
            NameIn::Dns => Cow::Borrowed(&*certificate.dns),
            NameIn::Email => Cow::Borrowed(&*certificate.emails),
            NameIn::CommonName => Cow::Borrowed(&*certificate.common_names),
        };
        let mut all = names.iter().filter_map(|name| self.map.find(name));
        let Some(one) = all.next() else { return Found::Nobody };
        if !all.all(|other| other == one) {
            return Found::Several;
        }
        Found::One(one.workspace.unwrap_or_else(|| self.workspace.clone()), one.agent)
    }

    fn check(
        &self,
        shown: &Shown<'_>,
        certificate: &Arc<ClientCertificate>,
        now: i64,
    ) -> Option<Result<Identity, Denied>> {
        let (workspace, agent) = match self.find(certificate) {
            Found::Nobody => return None,
            Found::One(workspace, agent) => (workspace, agent),
            // Whoever issued it meant one of them.
            Found::Several => return Some(Err(Denied::Wrong)),
        };
        // The handshake has looked at it; a session that was resumed has not.
        if now > certificate.not_after {
            return Some(Err(Denied::Expired));
        }
        let agents = self.directory.of(&workspace);
        let Some(agents) = agents.filter(|agents| agents.admit(&agent, self.admit)) else {
            return Some(Err(Denied::Unknown));
        };
        let id: Arc<str> = format!("serial:{}", certificate.serial).into();
        let listed = !RevocationList::allow(&self.revoked, certificate, now);
        if listed || agents.has_ended(&agent, &id) {
            return Some(Err(Denied::Unknown));
        }
        let proof = Proof::Certificate(Arc::clone(certificate));
        let said = shown.said_by(&agent);
        Some(said.map(|said| agents.identity(agent, id, said, proof)))
    }
}

impl Authenticate for ByCertificate {
    fn authenticate(&self, shown: &Shown<'_>, now: i64) -> Option<Result<Identity, Denied>> {
        self.check(shown, shown.certificate?, now)
    }

    fn still_valid(&self, identity: &Identity, now: i64) -> Option<bool> {
        let Proof::Certificate(certificate) = &identity.proof else { return None };
        let same = Found::One(identity.workspace.clone(), identity.agent.clone());
        let same = self.find(certificate) == same;
        let agents = self.directory.of(&identity.workspace);
        let admitted = agents.is_some_and(|agents| {
            let ended = agents.has_ended(&identity.agent, &identity.token_id);
            agents.admit(&identity.agent, self.admit) && !ended
        });
        // By its CA, or by whoever keeps this home.
        let listed = !RevocationList::allow(&self.revoked, certificate, now);
        Some(same && admitted && !listed && now <= certificate.not_after)
    }

    fn labels(&self, identity: &Identity) -> Option<Cow<'_, Labels>> {
        let Proof::Certificate(_) = identity.proof else { return None };
        Some(Cow::Borrowed(self.directory.of(&identity.workspace)?.labels(&identity.agent)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::*;
    use super::*;
    use crate::record::Peer;

    fn certificate(uris: &[&str], dns: &[&str]) -> Arc<ClientCertificate> {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).into()).collect();
        Arc::new(ClientCertificate {
            serial: "0a".into(),
            subject: "CN=a".into(),
            issuer: [1].into(),
            common_names: texts(&["a"]),
            dns: texts(dns),
            uris: texts(uris),
            emails: texts(&["b@x.org"]),
            not_after: NOW + 60,
            standing: None,
        })
    }

    fn by(which: NameIn, rules: &[(&str, &str)]) -> ByCertificate {
        let rule = |(pattern, agent): &(&str, &str)| {
            let (pattern, agent) = (pattern.parse().unwrap(), agent.parse().unwrap());
            crate::agent::mapping::MappingRule::new(pattern, agent, None).unwrap()
        };
        let map = Mapping::new(rules.iter().map(rule).collect());
        ByCertificate::new(agents(None).0.into(), name("default"), (which, map), Admit::Known)
    }

    fn ask(
        by: &ByCertificate,
        certificate: &Arc<ClientCertificate>,
        now: i64,
    ) -> Option<Result<Identity, Denied>> {
        let certificate = Some(certificate);
        by.authenticate(&Shown { credentials: None, peer: Peer::Unix(None), certificate }, now)
    }

    const RULES: &[(&str, &str)] = &[("spiffe://prod/sa/*", "{1}")];

    #[test]
    fn the_name_that_the_config_means_says_who_it_is() {
        let spiffe = by(NameIn::Spiffe("prod".into()), RULES);
        let identity =
            ask(&spiffe, &certificate(&["spiffe://prod/sa/a"], &[]), NOW).unwrap().unwrap();
        assert_eq!((identity.agent, &*identity.token_id), (name("a"), "serial:0a"));
        for uris in [
            &["spiffe://other/sa/a"][..],
            &["spiffe://prod/x/a"],
            &["spiffe://prod/sa/a", "spiffe://prod/sa/b"],
            &[],
        ] {
            assert!(ask(&spiffe, &certificate(uris, &["a"]), NOW).is_none(), "{uris:?}");
        }
        let who = |by: &ByCertificate, dns: &[&str]| ask(by, &certificate(&[], dns), NOW);
        let dns = by(NameIn::Dns, &[("*.agents.test", "{1}")]);
        assert_eq!(who(&dns, &["a.agents.test", "x.test"]).unwrap().unwrap().agent, name("a"));
        assert_eq!(who(&dns, &["a.agents.test", "b.agents.test"]), Some(Err(Denied::Wrong)));
        assert_eq!(who(&dns, &["stranger.agents.test"]), Some(Err(Denied::Unknown)));
        assert_eq!(who(&dns, &["x.test"]), None);
        assert_eq!(who(&by(NameIn::CommonName, &[]), &[]).unwrap().unwrap().agent, name("a"));
        let email = by(NameIn::Email, &[("*@x.org", "{1}")]);
        assert_eq!(who(&email, &[]).unwrap().unwrap().agent, name("b"));
    }

    #[test]
    fn it_stands_until_it_ends_or_means_somebody_else() {
        let spiffe = by(NameIn::Spiffe("prod".into()), RULES);
        let one = certificate(&["spiffe://prod/sa/a"], &[]);
        let identity = ask(&spiffe, &one, NOW).unwrap().unwrap();
        assert_eq!(spiffe.still_valid(&identity, NOW + 60), Some(true));
        assert_eq!(spiffe.still_valid(&identity, NOW + 61), Some(false));
        assert_eq!(ask(&spiffe, &one, NOW + 61), Some(Err(Denied::Expired)), "resumed");
        let other = by(NameIn::Spiffe("test".into()), RULES);
        assert_eq!(other.still_valid(&identity, NOW), Some(false));
        let moved = by(NameIn::Spiffe("prod".into()), &[("spiffe://prod/sa/a", "b")]);
        assert_eq!(moved.still_valid(&identity, NOW), Some(false));
    }

    #[test]
    fn what_its_ca_has_taken_back_is_none_and_a_list_that_has_run_out_lets_nobody_in() {
        let one = certificate(&["spiffe://prod/sa/a"], &[]);
        let list = |serial: &str, until: i64| RevocationList {
            issuer: [1].into(),
            serials: [serial.into()].into(),
            until: Some(until),
        };
        let with = |lists: Vec<RevocationList>| {
            by(NameIn::Spiffe("prod".into()), RULES).without(lists.into())
        };
        let identity = ask(&with(vec![]), &one, NOW).unwrap().unwrap();
        for (lists, good) in [
            (vec![list("0b", NOW)], true),
            (vec![list("0a", NOW)], false),
            (vec![list("0b", NOW - 1)], false),
        ] {
            let by = with(lists);
            assert_eq!(ask(&by, &one, NOW).unwrap().is_ok(), good);
            assert_eq!(by.still_valid(&identity, NOW), Some(good));
        }
    }

    #[test]
    fn beside_it_nobody_says_that_he_is_another() {
        let spiffe = by(NameIn::Spiffe("prod".into()), RULES);
        let one = certificate(&["spiffe://prod/sa/a"], &[]);
        let ask = |user: &str| {
            let credentials = pair(user, "");
            let (credentials, certificate) = (Some(&credentials), Some(&one));
            let shown = Shown { credentials, peer: Peer::Unix(None), certificate };
            spiffe.authenticate(&shown, NOW).unwrap()
        };
        assert_eq!(ask("a+run=42").unwrap().context.run.unwrap().as_str(), "42");
        assert_eq!(ask("b").unwrap_err(), Denied::Wrong);
    }
}
