//! `locum credential providers`: what `credential add --provider` takes.

use serde_json::{Value, json};

use crate::app::Failure;
use crate::catalog::{Catalog, Provider};
use crate::cli::output::{self, Table};

pub(super) fn list(like: Option<&str>, json: bool) -> Result<(), Failure> {
    let like = like.unwrap_or_default().to_ascii_lowercase();
    let mut found: Vec<&Provider> =
        Catalog::embedded().iter().filter(|p| is_like(p, &like)).collect();
    found.sort_by_key(|provider| provider.id());
    if json {
        return output::json(&found.into_iter().map(described).collect::<Vec<_>>());
    }
    if found.is_empty() {
        return Err(Failure::new(format!("the catalogue has no provider with `{like}` in it"))
            .help("`locum credential add` takes any: say where it goes and how with --to and --header"));
    }
    let mut table = Table::of_any_texts(&["PROVIDER", "NAME", "VARIABLES", "TO"]);
    for provider in found {
        table.row(vec![
            provider.id().to_owned(),
            provider.name().to_owned(),
            output::list(provider.env().iter()),
            output::list(provider.to().iter()),
        ]);
    }
    table.print()
}

fn is_like(provider: &Provider, like: &str) -> bool {
    let texts = [provider.id(), provider.name()].into_iter();
    let more = provider.to().iter().chain(provider.env()).map(String::as_str);
    texts.chain(more).any(|text| text.to_ascii_lowercase().contains(like))
}

fn described(provider: &Provider) -> Value {
    json!({
        "provider": provider.id(), "name": provider.name(),
        "variables": provider.env(), "to": provider.to(),
    })
}
