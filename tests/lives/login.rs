//! A user name and its password as one credential: into Basic, into the fields of a form, into a JSON body,
//! and with a one-time password beside them.

use crate::support::*;

const TO: &[&str] = &["--kind", "basic", "--to", "https://api.test"];

fn world(slots: &[&str]) -> (World, String) {
    let password = thorny_canary();
    let world = World::with(BEARER, canary(), |home, origin| {
        origin.accept(&password);
        let secret = format!("alice@example.com:{password}");
        home.add("crm", &[TO, slots].concat(), &secret);
        // A further credential with its seed, as apps for one-time passwords have it.
        let totp = ["--kind", "totp", "--to", "https://api.test", "--form", "otp"];
        home.add("crm-otp", &totp, "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP");
    });
    (world, password)
}

#[test]
fn both_go_into_basic_whichever_half_refers_to_them() {
    let (world, password) = world(&[]);
    let wanted = basic("alice@example.com", &password);
    for pair in [("locum_crm", "locum_crm"), ("anybody", "locum_crm"), ("locum_crm", "x")] {
        let field = format!("Authorization: {}", basic(pair.0, pair.1));
        let answer = world.ask("GET", "/echo", &[&field], "");
        assert_eq!(answer.status, 200, "{pair:?}");
        assert_eq!(world.origin.last().header("authorization"), Some(&*wanted), "{pair:?}");
        let text = answer.text();
        assert!(
            !text.contains(&password) && !text.contains(wanted.strip_prefix("Basic ").unwrap())
        );
    }
    let record = world.home.accesses_to("/echo").pop().unwrap();
    assert_eq!((&record["credential"], &record["version"]), (&"crm".into(), &1.into()));
    world.home.never_leaks(&[&password], &[]);
}

#[test]
fn each_goes_into_a_field_of_its_own_and_a_one_time_password_beside_them() {
    let (world, password) = world(&["--form", "password", "--user-form", "username"]);
    let form = ["Content-Type: application/x-www-form-urlencoded"];
    let ask = |body: &str| {
        assert_eq!(world.ask("POST", "/open/login?x", &form, body).status, 200, "{body}");
        String::from_utf8(world.origin.last().body).unwrap()
    };
    let encoded = {
        // As the WHATWG URL standard has it for forms.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._*".contains(&b);
        let each = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
        password.bytes().map(each).collect::<String>()
    };
    let sent = ask("grant=password&username=locum_crm&password=locum_crm&otp=locum_crm-otp&x=1");
    let (before, rest) = sent.split_once("&otp=").unwrap();
    assert_eq!(before, format!("grant=password&username=alice%40example.com&password={encoded}"));
    let (otp, rest) = rest.split_once('&').unwrap();
    assert!(otp.len() == 6 && otp.bytes().all(|b| b.is_ascii_digit()) && rest == "x=1", "{sent}");
    // A user name of the program's own stays.
    assert_eq!(ask("username=bob&password=locum_crm"), format!("username=bob&password={encoded}"));
    // Elsewhere the reference is the text that it is.
    let sent = ask("username=locum_crm&password=locum_crm&note=locum_crm");
    assert!(sent.ends_with("&note=locum_crm"), "{sent}");
    world.home.never_leaks(&[&password], &[]);
}

#[test]
fn a_json_body_has_both_and_a_new_password_keeps_the_name() {
    let slots = ["--json-pointer", "/auth/password", "--user-json-pointer", "/auth/user"];
    let (world, password) = world(&slots);
    let body = r#"{"auth": {"user": "locum_crm", "password": "locum_crm"}, "n": 1.50}"#;
    let ask = || {
        let fields = ["Content-Type: application/json"];
        assert_eq!(world.ask("POST", "/open/echo", &fields, body).status, 200);
        let sent = world.origin.last().body;
        serde_json::from_slice::<serde_json::Value>(&sent).unwrap()["auth"].clone()
    };
    let auth = ask();
    assert_eq!(
        (&auth["user"], &auth["password"]),
        (&"alice@example.com".into(), &(*password).into())
    );
    let next = canary();
    world.home.rotate("crm", &format!("{{\"password\": \"{next}\"}}"));
    let auth = eventually("the new password", PATIENCE, || {
        let auth = ask();
        (auth["password"] == *next).then_some(auth)
    });
    assert_eq!(auth["user"], "alice@example.com");
    world.home.never_leaks(&[&password, &next], &[]);
}

#[test]
fn what_is_no_pair_is_not_taken() {
    let home = Home::new();
    for (secret, why) in [
        ("nocolon", "username"),
        ("alice:", "password"),
        (":password", "username"),
        ("alice:abc", "4 characters"),
        ("{\"username\": \"a:b\", \"password\": \"long enough\"}", "no `:`"),
    ] {
        let add = [&["credential", "add", "crm"], TO].concat();
        let ran = home.locum_with(&add, secret.as_bytes());
        assert!(ran.code == 64 && ran.err.contains(why), "{secret}: {}", ran.err);
    }
}
