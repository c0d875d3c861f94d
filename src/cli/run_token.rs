//! `locum run-token`: a short-lived token for one run, which may do less than its agent.

use std::time::Duration;

use super::output;
use super::way::Where;
use crate::admin::orders::runs::MakeRunToken;
use crate::agent::Label;
use crate::app::Failure;
use crate::document::parse_duration;
use crate::reference::Name;
use crate::token::run::MAX_TTL;

/// Arguments of `locum run-token`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  locum run-token --agent researcher --run 42 --user alice --ttl 1h --use openai\n  locum run-token --agent researcher --environment staging\n  locum agent revoke researcher --run 42"
)]
pub(super) struct Args {
    /// The agent that it stands for
    #[arg(long, value_name = "NAME")]
    agent: Name,
    /// The run, as the audit log has it; the agent cannot say otherwise
    #[arg(long, value_name = "ID")]
    run: Option<Label>,
    /// The step inside the run
    #[arg(long, value_name = "ID")]
    node: Option<Label>,
    /// The person on whose behalf it runs
    #[arg(long, value_name = "NAME")]
    user: Option<Label>,
    /// How long it is good for, at most 7d
    #[arg(long, value_name = "DURATION", value_parser = ttl, default_value = "1h")]
    ttl: Duration,
    /// A credential, set or value that it may use, repeatable. Without any: all that the agent may
    #[arg(long = "use", value_name = "NAME")]
    uses: Vec<Name>,
    /// The environment whose values it gets (`locum value`), and no other's; by default those of none
    #[arg(long, value_name = "NAME")]
    environment: Option<Name>,
    /// Print agent, `token_id`, token and `expires` as JSON
    #[arg(long)]
    json: bool,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).map_err(|error| error.to_string())?;
    if (1..=MAX_TTL.unsigned_abs()).contains(&ttl.as_secs()) {
        Ok(ttl)
    } else {
        Err("a run token is good for 1s to 7d; a longer one is an agent's: `locum agent add`"
            .into())
    }
}

pub(super) fn run(to: &Where, args: Args) -> Result<(), Failure> {
    let made = to.open()?.order(MakeRunToken {
        agent: args.agent,
        run: args.run,
        node: args.node,
        user: args.user,
        ttl: Some(args.ttl.as_secs().cast_signed()),
        uses: (!args.uses.is_empty()).then_some(args.uses),
        environment: args.environment,
    })?;
    if args.json {
        return output::json_for_good(&made);
    }
    output::line_for_good(&made.token.0)?;
    output::note(&format!(
        "This is the run token {id} of {agent}, good until {}; it is not shown again.\nSet HTTPS_PROXY=http://{agent}:TOKEN@HOST:PORT. `locum agent revoke {agent} --run-token {id}` ends it.",
        output::time(made.expires),
        id = made.token_id,
        agent = made.agent,
    ));
    Ok(())
}
