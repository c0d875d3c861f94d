use super::super::fixture::*;
use super::*;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde_json::json;
use zeroize::Zeroizing;

/// A key of an issuer, and the set that publishes it.
fn key() -> (Ed25519KeyPair, Value) {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x });
    (pair, json!({ "keys": [jwk] }))
}

fn sign(pair: &Ed25519KeyPair, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": "k" })), part(claims));
    let signature = pair.sign(signed.as_bytes());
    format!("{signed}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
}

fn claims() -> Value {
    json!({ "iss": "i", "aud": "locum", "sub": "team:a", "exp": NOW + 60, "email": "eve@x.org" })
}

fn issuer(keys: &Arc<IssuerKeys>) -> Issuer {
    let rule = |pattern: &str, agent: &str| {
        let (pattern, agent) = (pattern.parse().unwrap(), agent.parse().unwrap());
        crate::agent::mapping::MappingRule::new(pattern, agent, None).unwrap()
    };
    Issuer {
        expected: Expected {
            issuer: "i".into(),
            audiences: ["locum".into()].into(),
            types: [].into(),
            leeway: 0,
        },
        algorithms: [Algorithm::EdDsa].into(),
        claims: Claims {
            agent: ClaimPath::named("sub"),
            user: Some(ClaimPath::named("email")),
            run: None,
            labels: [].into(),
        },
        agents: Mapping::new(vec![rule("team:*", "{1}")]),
        workspace: name("default"),
        admit: Admit::Known,
        keys: Arc::clone(keys),
    }
}

fn keys(set: &Value) -> Arc<IssuerKeys> {
    let keys = Arc::<IssuerKeys>::default();
    keys.replace(KeySet::parse(set.to_string().as_bytes()).unwrap());
    keys
}

fn by(issuer: Issuer) -> ByJwt {
    ByJwt::new(agents(None).0.into(), vec![issuer])
}

fn bearer(to: &ByJwt, text: &str) -> Result<Identity, Denied> {
    let credentials = Credentials::Bearer(Zeroizing::new(text.to_owned()));
    to.authenticate(&shown(Some(&credentials)), NOW).expect("three parts are its own")
}

#[test]
fn it_says_who_calls_and_for_whom_and_nobody_may_say_otherwise() {
    let (pair, set) = key();
    let by = by(issuer(&keys(&set)));
    let text = sign(&pair, &claims());
    let identity = bearer(&by, &text).unwrap();
    assert_eq!(identity.agent, name("a"));
    assert!(identity.token_id.starts_with("sha256:"), "{}", identity.token_id);
    let user = |identity: &Identity| identity.context.user.as_ref().unwrap().as_str().to_owned();
    assert_eq!(user(&identity), "eve@x.org");
    let said = "a+user=bob+run=1".parse::<UserName>().unwrap().context;
    let saying = identity.saying(&said);
    assert_eq!((user(&saying), saying.context.run.unwrap().as_str()), ("eve@x.org".into(), "1"));
    let ask = |user: &str| {
        let credentials = pair_of(user, &text);
        by.authenticate(&shown(Some(&credentials)), NOW).unwrap()
    };
    assert_eq!(ask("a+run=7").unwrap().context.run.unwrap().as_str(), "7");
    assert_eq!(ask("a+user=bob").unwrap_err(), Denied::Wrong);
    assert_eq!(ask("b").unwrap_err(), Denied::Wrong);
}

fn pair_of(user: &str, password: &str) -> Credentials {
    super::super::fixture::pair(user, password)
}

#[test]
fn what_a_claim_does_not_give_is_not_made_up() {
    let (pair, set) = key();
    let by = by(issuer(&keys(&set)));
    let with = |name: &str, value: Value| {
        let mut all = claims();
        all[name] = value;
        bearer(&by, &sign(&pair, &all)).map(|identity| identity.agent)
    };
    let fault = |fault| Err(Denied::Jwt(fault));
    assert_eq!(with("sub", json!("team:b")), Ok(name("b")));
    assert_eq!(with("sub", json!("team:stranger")), Err(Denied::Unknown));
    assert_eq!(with("sub", json!("team:gone")), Err(Denied::Unknown), "a revoked agent");
    assert_eq!(with("sub", json!("other:a")), fault(Fault::NoAgent));
    assert_eq!(with("sub", json!(["team:a"])), fault(Fault::Claim));
    assert_eq!(with("sub", Value::Null), fault(Fault::Claim));
    assert_eq!(with("email", Value::Null), fault(Fault::Claim), "the agent could say it itself");
    assert_eq!(with("email", json!("a b")), fault(Fault::Claim));
    assert_eq!(with("iss", json!("j")), fault(Fault::Issuer));
}

#[test]
fn an_issuer_may_be_let_speak_for_agents_that_the_vault_does_not_know() {
    let (pair, set) = key();
    let by = by(Issuer { admit: Admit::Any, ..issuer(&keys(&set)) });
    let who = |sub: &str| {
        let mut all = claims();
        all["sub"] = json!(sub);
        bearer(&by, &sign(&pair, &all)).map(|identity| identity.agent)
    };
    assert_eq!(who("team:stranger"), Ok(name("stranger")));
    assert_eq!(who("team:gone"), Err(Denied::Unknown), "a revoked one is none by any means");
}

#[test]
fn labels_come_from_claims_and_those_of_the_vault_go_over_them() {
    let (signer, set) = key();
    let label = |name: &str, path: &str| (name.parse().unwrap(), path.parse().unwrap());
    let labels = [label("team", "team"), label("group", "groups"), label("none", "none")];
    let mut issuer = issuer(&keys(&set));
    issuer.claims.labels = labels.into();
    let by = by(issuer);
    let with = |team: Value, groups: Value| {
        let mut all = claims();
        (all["team"], all["groups"]) = (team, groups);
        bearer(&by, &sign(&signer, &all)).map(|identity| identity.labels.to_string())
    };
    let found = with(json!("ml"), json!(["ops", "Domain Users", "ops", 7]));
    assert_eq!(found, Ok("group/ops=yes,team=ml".to_owned()));
    assert_eq!(with(Value::Null, json!([])), Ok(String::new()));
    assert_eq!(with(json!("a b"), json!([])), Err(Denied::Jwt(Fault::Claim)));
    let many: Vec<String> = (0..40).map(|n| format!("g{n}")).collect();
    assert_eq!(with(json!("ml"), json!(many)), Err(Denied::Jwt(Fault::Claim)));
    let pair = |text: &str| text.parse::<crate::agent::LabelPair>().map(|p| (p.0, p.1)).unwrap();
    let own = Labels::new([pair("team=sec"), pair("x=y")]).unwrap();
    let claimed = Labels::new([pair("team=ml"), pair("z=z")]).unwrap();
    assert_eq!(claimed.overlaid(&own).unwrap().to_string(), "team=sec,x=y,z=z");
    // The labels of now are those of the token with those that the vault has now.
    let identity = bearer(&by, &sign(&signer, &claims())).unwrap();
    let Proof::Jwt(proof) = &identity.proof else { panic!("{identity:?}") };
    let proof = Proof::Jwt(Arc::new(JwtProof { labels: claimed, ..(**proof).clone() }));
    let identity = Identity { proof, ..identity };
    assert_eq!(by.labels(&identity).unwrap().to_string(), "team=ml,z=z");
}

#[test]
fn it_stands_until_it_ends_or_its_key_its_agent_or_its_issuer_does() {
    let (pair, set) = key();
    let kept = keys(&set);
    let identity = bearer(&by(issuer(&kept)), &sign(&pair, &claims())).unwrap();
    let stands = |issuer: Issuer, now| by(issuer).still_valid(&identity, now).unwrap();
    assert!(stands(issuer(&kept), NOW + 59));
    assert!(!stands(issuer(&kept), NOW + 60), "it has expired");
    assert!(!stands(Issuer { agents: Mapping::default(), ..issuer(&kept) }, NOW));
    let other = Expected { issuer: "j".into(), ..issuer(&kept).expected };
    assert!(!stands(Issuer { expected: other, ..issuer(&kept) }, NOW), "the issuer is gone");
    let nobody = ByJwt::new(agents(None).0.into(), Vec::new());
    assert_eq!(nobody.still_valid(&identity, NOW), Some(false));
    // A key that is no longer published ends what came by it; one that is added does not.
    let (_, second) = key();
    let both = json!({ "keys": [set["keys"][0], second["keys"][0]] });
    kept.replace(KeySet::parse(both.to_string().as_bytes()).unwrap());
    assert!(stands(issuer(&kept), NOW));
    kept.replace(KeySet::parse(second.to_string().as_bytes()).unwrap());
    assert!(!stands(issuer(&kept), NOW));
}

#[test]
fn a_result_is_kept_as_long_as_the_keys_and_what_fails_is_not() {
    let (pair, set) = key();
    let kept = keys(&set);
    let by = by(issuer(&kept));
    let count = || kept.loaded.load().as_ref().unwrap().verified.lock().len();
    let text = sign(&pair, &claims());
    assert!(bearer(&by, &text).is_ok() && bearer(&by, &text).is_ok());
    assert_eq!(count(), 1);
    let (stranger, _) = key();
    assert_eq!(
        bearer(&by, &sign(&stranger, &claims())).unwrap_err(),
        Denied::Jwt(Fault::Signature)
    );
    assert_eq!(count(), 1);
    // A kept result is judged anew each time.
    let credentials = Credentials::Bearer(Zeroizing::new(text.clone()));
    let late = by.authenticate(&shown(Some(&credentials)), NOW + 60).unwrap();
    assert_eq!(late.unwrap_err(), Denied::Jwt(Fault::Expired));
    // The same set changes nothing, another one forgets all.
    assert!(!kept.replace(KeySet::parse(set.to_string().as_bytes()).unwrap()));
    assert_eq!(count(), 1);
    let (_, other) = key();
    assert!(kept.replace(KeySet::parse(other.to_string().as_bytes()).unwrap()));
    assert_eq!(bearer(&by, &text).unwrap_err(), Denied::Jwt(Fault::Signature));
    assert!(!kept.is_wanted(), "a wrong signature asks for no keys");
}

#[test]
fn results_are_bounded() {
    let (pair, set) = key();
    let kept = keys(&set);
    let by = by(issuer(&kept));
    for n in 0..KEPT + 10 {
        let mut all = claims();
        all["jti"] = json!(n.to_string());
        assert_eq!(&*bearer(&by, &sign(&pair, &all)).unwrap().token_id, n.to_string());
    }
    assert!(kept.loaded.load().as_ref().unwrap().verified.lock().len() <= KEPT);
}

#[test]
fn a_key_that_is_not_there_is_asked_for() {
    let (pair, _) = key();
    let (_, other) = key();
    let text = sign(&pair, &claims());
    let none = Arc::<IssuerKeys>::default();
    assert_eq!(bearer(&by(issuer(&none)), &text).unwrap_err(), Denied::Jwt(Fault::UnknownKey));
    assert!(none.is_wanted() && none.take_wanted() && !none.is_wanted());
    let mut renamed = other;
    renamed["keys"][0]["kid"] = json!("another");
    let kept = keys(&renamed);
    assert_eq!(bearer(&by(issuer(&kept)), &text).unwrap_err(), Denied::Jwt(Fault::UnknownKey));
    assert!(kept.is_wanted());
}

#[test]
fn what_is_no_token_of_an_issuer_is_left_to_others() {
    let (_, set) = key();
    let by = by(issuer(&keys(&set)));
    for text in ["", "lct_x", "lcr_a.b", "lcr_a.b.c", "a.b", "a.b.c.d.e"] {
        let credentials = pair_of("a", text);
        assert!(by.authenticate(&shown(Some(&credentials)), NOW).is_none(), "{text}");
    }
    assert!(by.authenticate(&shown(None), NOW).is_none());
}

/// The keys, and what was verified with them, outlive a change of the config.
#[test]
fn what_was_verified_on_wider_terms_is_not_good_on_narrower_ones() {
    let (pair, set) = key();
    let kept = keys(&set);
    let text = sign(&pair, &claims());
    let identity = bearer(&by(issuer(&kept)), &text).unwrap();
    let narrower = by(Issuer { algorithms: [Algorithm::Rs256].into(), ..issuer(&kept) });
    assert_eq!(bearer(&narrower, &text).unwrap_err(), Denied::Jwt(Fault::Algorithm));
    assert_eq!(narrower.still_valid(&identity, NOW), Some(false));
    let audiences = Expected { audiences: ["other".into()].into(), ..issuer(&kept).expected };
    let elsewhere = by(Issuer { expected: audiences, ..issuer(&kept) });
    assert!(bearer(&elsewhere, &text).is_err());
    assert_eq!(elsewhere.still_valid(&identity, NOW), Some(false));
    assert_eq!(by(issuer(&kept)).still_valid(&identity, NOW), Some(true));
}
