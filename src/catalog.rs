//! The provider catalogue: for each provider, where its key may go, how it enters a request, and
//! which variables hold it.
//!
//! The facts are in `catalog/providers.yaml`, whose head explains the fields, and are built into
//! the binary. Nothing here performs I/O, and nothing here decides: `credential add` copies what it
//! finds into the credential, which is what policy and injection look at.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

const EMBEDDED: &str = include_str!("catalog/providers.yaml");

/// All providers, in the order of the file: by trade.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Catalog {
    providers: Vec<Provider>,
}

impl Catalog {
    /// The catalogue of this binary.
    ///
    /// # Panics
    /// Never: the file is part of the binary, and the tests of this module parse it.
    #[must_use]
    pub fn embedded() -> &'static Self {
        static CATALOG: OnceLock<Catalog> = OnceLock::new();
        CATALOG.get_or_init(|| serde_yaml::from_str(EMBEDDED).expect("the tests parse this text"))
    }

    /// The provider of that id. This and the other look-ups scan the list: it is short, and read
    /// once per command.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Provider> {
        self.iter().find(|p| p.id == id)
    }

    /// All providers, by trade.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter()
    }

    /// The one provider whose secret is held by the environment variable `var`.
    #[must_use]
    pub fn by_variable(&self, var: &str) -> Option<&Provider> {
        self.iter().find(|p| p.env.iter().any(|v| v == var))
    }

    /// The id that someone who wrote `id` may have meant: one that has it as a part (`gemini`), or
    /// else the one fewest edits away, of at most a third of its letters.
    #[must_use]
    pub fn suggest(&self, id: &str) -> Option<&str> {
        let id = id.to_ascii_lowercase().replace(['_', ' ', '.'], "-");
        self.ids().find(|known| known.split('-').any(|part| part == id)).or_else(|| self.near(&id))
    }

    fn near(&self, id: &str) -> Option<&str> {
        let edits = |known| strsim::damerau_levenshtein(known, id);
        let (known, edits) = self.ids().map(|known| (known, edits(known))).min_by_key(|k| k.1)?;
        (edits * 3 <= id.len().max(3)).then_some(known)
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.iter().map(Provider::id)
    }
}

/// What the catalogue knows of one provider, or of one use of a provider's keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    id: String,
    name: String,
    to: Vec<String>,
    #[serde(default)]
    own_hosts: Vec<String>,
    slots: Vec<SlotText>,
    env: Vec<String>,
    #[serde(default)]
    base_url_env: Vec<String>,
    #[serde(default)]
    host_env: Vec<String>,
    #[serde(default)]
    kind: Vec<Kind>,
    #[serde(default)]
    prefixes: Vec<String>,
    pattern: Option<String>,
    stand_in: Option<StandIn>,
    health: Option<Health>,
    #[serde(default)]
    health_of: BTreeMap<String, Health>,
    oauth: Option<Oauth>,
    confidence: Confidence,
    note: Option<String>,
}

impl Provider {
    /// How `--provider` names it. Fit to be the name of a credential, too.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How people call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The destinations that take this key, such as `https://api.openai.com`. Empty where each
    /// customer has hosts of their own; then there are [`own_hosts`](Self::own_hosts).
    #[must_use]
    pub fn to(&self) -> &[String] {
        &self.to
    }

    /// Destination patterns that are too wide to bind to, because strangers can have hosts among
    /// them. The user names theirs: `https://acme.zendesk.com` out of `https://*.zendesk.com`.
    #[must_use]
    pub fn own_hosts(&self) -> &[String] {
        &self.own_hosts
    }

    /// Where the secret enters a request, in order of preference. Empty only for a
    /// [`kind`](Self::kind) that never sends it.
    #[must_use]
    pub fn slots(&self) -> &[SlotText] {
        &self.slots
    }

    /// The environment variables that clients read this secret from. No two providers share one.
    #[must_use]
    pub fn env(&self) -> &[String] {
        &self.env
    }

    /// Variables that would point an SDK away from [`to`](Self::to). A program does without them.
    #[must_use]
    pub fn base_url_env(&self) -> &[String] {
        &self.base_url_env
    }

    /// Variables by which a client learns its customer's own host or region, such as
    /// `SUPABASE_URL`. A program needs them, so to clear them would break it.
    #[must_use]
    pub fn host_env(&self) -> &[String] {
        &self.host_env
    }

    /// Ways to use the secret other than to send it.
    #[must_use]
    pub fn kind(&self) -> &[Kind] {
        &self.kind
    }

    /// What real keys start with. Empty where nothing tells them apart.
    #[must_use]
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// What real keys look like: a regular expression without anchors.
    #[must_use]
    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    /// `reference` dressed as a key of this provider, where it has a format that clients check or
    /// people know. At least [`MIN_STAND_IN`](crate::credential::MIN_STAND_IN) bytes.
    #[must_use]
    pub fn stand_in(&self, reference: &str) -> Option<String> {
        self.stand_in.as_ref().map(|template| template.dress(reference))
    }

    /// The request that tells a good key from a bad one.
    #[must_use]
    pub fn health(&self) -> Option<&Health> {
        self.health.as_ref()
    }

    /// The same for what is made of the secret by a kind, as `--kind` names it: some tokens may not make
    /// the usual call.
    #[must_use]
    pub fn health_of(&self, kind: &str) -> Option<&Health> {
        self.health_of.get(kind).or(self.health.as_ref())
    }

    /// The OAuth endpoints.
    #[must_use]
    pub fn oauth(&self) -> Option<&Oauth> {
        self.oauth.as_ref()
    }

    /// How sure the entry is.
    #[must_use]
    pub fn confidence(&self) -> Confidence {
        self.confidence
    }

    /// What its user should know.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }
}

/// A slot as the catalogue and the command line write it. Kinds that this version cannot inject
/// are here too, so that a provider which needs one says so instead of missing it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotText {
    /// `NAME: TEMPLATE`, for [`Slot::header`](crate::credential::Slot::header).
    Header(String),
    /// The user, for [`Slot::basic`](crate::credential::Slot::basic): `{secret}` where the secret
    /// is the user, and empty where only the client knows the user.
    Basic(String),
    /// The parameter, for [`Slot::query`](crate::credential::Slot::query).
    Query(String),
    /// A path around one `{secret}`, for [`Slot::path`](crate::credential::Slot::path).
    Path(String),
    /// A JSON pointer (RFC 6901) into the body.
    Json(String),
    /// A field of a form in the body.
    Form(String),
    /// One entry of a list, for [`Slot::subprotocol`](crate::credential::Slot::subprotocol).
    Subprotocol(String),
}

/// A way to use a secret other than to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request is signed with it (AWS Signature Version 4).
    Sigv4,
    /// It is a refresh token, good for access tokens (RFC 6749 section 6).
    Oauth2Refresh,
    /// It is a client secret, good for access tokens (RFC 6749 section 4.4).
    Oauth2ClientCredentials,
    /// It is the private key of a GitHub App, good for installation tokens.
    GithubApp,
    /// It is the private key of a Google service account, good for access tokens (RFC 7523).
    GcpServiceAccount,
}

/// How sure an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// To be verified by whoever relies on it.
    Low,
    /// From a second source.
    Medium,
    /// Seen in an SDK or on the wire.
    High,
}

/// A request that changes nothing and tells a good key from a bad one, with the secret in the
/// provider's first slot.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// `GET`, or `POST` where the provider has nothing that can be read by `GET`.
    pub method: String,
    /// The host. Absent, it is the user's own where the provider has such, else the first of `to`.
    pub host: Option<String>,
    /// Path and query. In a few the secret stands in it, at `{secret}`.
    pub path: String,
    /// Further headers that the provider insists on.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body of a `POST`, JSON. Absent, it is empty.
    pub body: Option<String>,
    /// The statuses of a good key.
    pub valid: Vec<u16>,
    /// A text in the answer that proves a good key, whatever the status.
    pub valid_body: Option<String>,
    /// The statuses of a bad key. Any other status proves nothing.
    pub invalid: Vec<u16>,
    /// A text in the answer that proves a bad key, whatever the status.
    pub invalid_body: Option<String>,
}

/// A provider's OAuth endpoints. A `{word}` in one is the customer's to fill in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// Where the user consents (RFC 6749 section 3.1).
    pub authorize: Option<String>,
    /// Where tokens come from (RFC 6749 section 3.2).
    pub token: Option<String>,
    /// Where a device without a browser starts (RFC 8628).
    pub device: Option<String>,
    /// Where a token ends (RFC 7009).
    pub revoke: Option<String>,
}

/// `sk-{ref}_{pad:40}`: a reference in the clothes of a key.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct StandIn {
    /// Before the reference.
    head: String,
    /// Between the reference and the zeros.
    middle: String,
    /// After the zeros.
    tail: String,
    /// The fewest characters in all; zeros fill up to it.
    least: usize,
}

impl StandIn {
    fn dress(&self, reference: &str) -> String {
        let Self { head, middle, tail, least } = self;
        let missing =
            least.saturating_sub(head.len() + reference.len() + middle.len() + tail.len());
        format!("{head}{reference}{middle}{}{tail}", "0".repeat(missing))
    }
}

impl TryFrom<String> for StandIn {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let (head, rest) = text.split_once("{ref}").ok_or("a stand-in has {ref} in it")?;
        let (middle, pad) = rest.split_once("{pad:").unwrap_or((rest, "0}"));
        let (least, tail) = pad.split_once('}').ok_or("padding is written {pad:N}")?;
        let least = least.parse().map_err(|_| "the N of {pad:N} is a number")?;
        Ok(Self { head: head.into(), middle: middle.into(), tail: tail.into(), least })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::credential::{MIN_STAND_IN, Slot};
    use crate::host::Destination;
    use crate::reference::{MAX_NAME, Name};

    fn all() -> impl Iterator<Item = &'static Provider> {
        Catalog::embedded().iter()
    }

    fn id_of(provider: Option<&Provider>) -> Option<&str> {
        provider.map(Provider::id)
    }

    fn destination(text: &str) -> Destination {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn is_unknown_user(slot: &SlotText) -> bool {
        *slot == SlotText::Basic(String::new())
    }

    #[test]
    fn every_entry_parses_and_has_an_id_of_its_own() {
        let ids: HashSet<&str> = all().map(Provider::id).collect();
        assert_eq!(ids.len(), all().count());
        assert!(ids.len() >= 115);
        for id in ids {
            assert!(id.parse::<Name>().is_ok(), "{id} cannot name a credential");
        }
    }

    #[test]
    fn a_field_that_nobody_reads_is_an_error() {
        let text = "{id: a, name: A, to: [], slots: [], env: [], confidence: low, nmae: b}";
        assert!(serde_yaml::from_str::<Provider>(text).is_err());
        assert!(serde_yaml::from_str::<Provider>(&text.replace(", nmae: b", "")).is_ok());
    }

    #[test]
    fn a_variable_has_one_meaning() {
        let mut seen = HashSet::new();
        for provider in all() {
            for var in provider.env() {
                assert!(
                    seen.insert(var),
                    "{var} is claimed twice, the second time by {}",
                    provider.id
                );
            }
        }
        let others = all().flat_map(|p| p.base_url_env().iter().chain(p.host_env()));
        for var in others {
            assert!(!seen.contains(var), "{var} holds a secret and an address");
        }
        let base_urls: HashSet<_> = all().flat_map(Provider::base_url_env).collect();
        for var in all().flat_map(Provider::host_env) {
            assert!(!base_urls.contains(var), "{var} is to be cleared and to be kept");
        }
    }

    #[test]
    fn variables_are_names_that_a_shell_can_set() {
        let vars = all().flat_map(|p| p.env().iter().chain(p.base_url_env()).chain(p.host_env()));
        for var in vars {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            assert!(
                var.bytes().all(legal) && !var.starts_with(|c: char| c.is_ascii_digit()),
                "{var}"
            );
        }
    }

    #[test]
    fn destinations_parse_and_are_never_in_the_clear() {
        for provider in all() {
            for text in provider.to().iter().chain(provider.own_hosts()) {
                assert!(text.starts_with("https://"), "{text}");
                assert_eq!(destination(text).to_string(), *text);
            }
            let bindable = !provider.to().is_empty() || !provider.own_hosts().is_empty();
            assert!(bindable, "{} goes nowhere", provider.id);
        }
    }

    /// A wildcard lets the key go to every host that anyone can register there. Whoever adds one
    /// must know that only the provider can, and put it on this list.
    #[test]
    fn wildcards_to_bind_to_are_few_and_known() {
        let known = [
            "https://*.api.openai.com",
            "https://*.api.mailchimp.com",
            "https://*.googleapis.com",
            "https://*.logs.datadoghq.com",
        ];
        for text in all().flat_map(Provider::to).filter(|to| to.contains('*')) {
            assert!(known.contains(&text.as_str()), "{text}");
        }
    }

    #[test]
    fn slots_parse() {
        for provider in all() {
            for slot in provider.slots() {
                let parsed = match slot {
                    SlotText::Header(text) => Slot::header(text).map(drop),
                    SlotText::Basic(user) => Slot::basic(user).map(drop),
                    SlotText::Query(name) => Slot::query(name).map(drop),
                    SlotText::Path(text) => Slot::path(text).map(drop),
                    SlotText::Subprotocol(text) => Slot::subprotocol(text).map(drop),
                    SlotText::Json(text) => Slot::json(text).map(drop),
                    SlotText::Form(text) => Slot::form(text).map(drop),
                };
                assert_eq!(parsed, Ok(()), "{}: {slot:?}", provider.id);
            }
            let signs = provider.kind().contains(&Kind::Sigv4);
            assert!(signs || !provider.slots().is_empty(), "{} has no slot", provider.id);
        }
    }

    #[test]
    fn stand_ins_look_like_keys_and_hold_the_reference() {
        let (short, long) = ("locum_a".to_owned(), format!("locum_{}", "z".repeat(MAX_NAME)));
        for provider in all() {
            for reference in [&short, &long, &format!("locum_{}", provider.id)] {
                let Some(text) = provider.stand_in(reference) else { continue };
                assert!(text.len() >= MIN_STAND_IN, "{text}");
                assert_eq!(crate::reference::names_in(text.as_bytes()).count(), 1, "{text}");
                assert!(text.contains(reference), "{text}");
                let legal = |b: u8| b.is_ascii_alphanumeric() || b"._~+/=-:".contains(&b);
                assert!(text.bytes().all(legal), "{text}");
                let known = provider.prefixes().iter().any(|p| text.starts_with(p.as_str()));
                assert!(known || provider.prefixes().is_empty(), "{text}");
            }
        }
    }

    /// The reference is followed by nothing that could be part of its name, so that a misplaced
    /// stand-in still counts under the right credential.
    #[test]
    fn the_name_inside_a_stand_in_is_read_back() {
        for provider in all() {
            let Some(text) = provider.stand_in("locum_acme") else { continue };
            let names: Vec<&str> = crate::reference::names_in(text.as_bytes()).collect();
            assert_eq!(names, ["acme"], "{text}");
        }
    }

    #[test]
    fn stand_in_templates() {
        let dress = |template: &str| StandIn::try_from(template.to_owned()).map(|t| t.dress("R"));
        assert_eq!(dress("sk-{ref}").as_deref(), Ok("sk-R"));
        assert_eq!(dress("sk-{ref}_{pad:10}AA").as_deref(), Ok("sk-R_000AA"));
        assert_eq!(dress("sk-{ref}_{pad:4}AA").as_deref(), Ok("sk-R_AA"));
        for bad in ["sk-", "sk-{ref}{pad:x}", "sk-{ref}{pad:9"] {
            assert!(dress(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_probe_sends_the_key_only_where_it_may_go() {
        let calls = |provider: &'static Provider| {
            let calls = provider.health.iter().chain(provider.health_of.values());
            calls.map(move |health| (provider, health))
        };
        for (provider, health) in all().flat_map(calls) {
            let id = provider.id();
            assert!(["GET", "POST"].contains(&health.method.as_str()), "{id}");
            assert!(health.path.starts_with('/'), "{id}");
            assert!(!health.valid.is_empty() || health.valid_body.is_some(), "{id}");
            assert!(health.valid.iter().all(|status| !health.invalid.contains(status)), "{id}");
            match &health.host {
                Some(host) => {
                    let asked = destination(&format!("https://{host}"));
                    let host = asked.host.exact().expect("one host");
                    assert!(
                        provider.to().iter().any(|to| destination(to).host.matches(host)),
                        "{id}"
                    );
                }
                None if provider.own_hosts().is_empty() => {
                    assert!(destination(&provider.to()[0]).host.exact().is_some(), "{id}");
                }
                None => {}
            }
            let user_unknown = provider.slots().first().is_some_and(is_unknown_user);
            assert!(!user_unknown, "{id} cannot be probed without its user");
        }
    }

    #[test]
    fn oauth_endpoints_are_https() {
        for oauth in all().filter_map(Provider::oauth) {
            let Oauth { authorize, token, device, revoke } = oauth;
            let urls = [authorize, token, device, revoke].into_iter().flatten();
            assert!(urls.clone().count() > 0 && urls.clone().all(|u| u.starts_with("https://")));
        }
    }

    #[test]
    fn lookups() {
        let catalog = Catalog::embedded();
        assert_eq!(id_of(catalog.get("openai")), Some("openai"));
        assert_eq!(id_of(catalog.get("OpenAI")), None);
        assert_eq!(id_of(catalog.by_variable("GH_TOKEN")), Some("github"));
        assert_eq!(id_of(catalog.by_variable("PATH")), None);
        let anthropic = catalog.get("anthropic").unwrap();
        assert_eq!(anthropic.slots()[0], SlotText::Header("x-api-key: {secret}".into()));
        assert_eq!(anthropic.slots()[1], SlotText::Header("Authorization: Bearer {secret}".into()));
        assert!(anthropic.stand_in("locum_x").unwrap().starts_with("sk-ant-api03-locum_x_0"));
    }

    #[test]
    fn suggestions_are_near_or_none() {
        for (typed, meant) in [
            ("opnai", Some("openai")),
            ("OpenAI", Some("openai")),
            ("antropic", Some("anthropic")),
            ("hugging-face", Some("huggingface")),
            ("google_gemini", Some("google-gemini")),
            ("gemini", Some("google-gemini")),
            ("bedrock", Some("aws-bedrock")),
            ("slak", Some("slack")),
            ("", None),
            ("-", None),
            ("my-billing-service", None),
        ] {
            assert_eq!(Catalog::embedded().suggest(typed), meant, "{typed}");
        }
    }
}
