//! Credentials: what lists show of them, and what becomes of them. None gives a secret back.

use serde::{Deserialize, Serialize};

use super::kinds::{
    AtSource, check_is_not_of_the_machine, check_kind, check_login, slots_of, stand_in_of,
};
use super::{Call, Desk, Given, Order, Trouble, now, register};
use crate::agent::Label;
use crate::app::{Failure, Health};
use crate::catalog::{Catalog, Provider};
use crate::cli::{
    follow_certificate, kept_material, provider_slots, provider_to, rotated_material,
};
use crate::config::MAX_GRACE;
use crate::credential::{
    ELSEWHERE, Kind, MAX_WEIGHT, Properties, Schedule, Slot, Source, days_between, stand_in_for,
};
use crate::host::Destination;
use crate::reference::Name;
use crate::secret::Secret;
use crate::vault::{
    CredentialInfo, NewCredential, Promotion, Tier, Vault, VaultError, VersionState,
    validate_secret,
};

/// A credential as lists and `--json` have it: never its secret.
#[derive(Serialize, Deserialize)]
pub(crate) struct Shown {
    pub(crate) name: Name,
    #[serde(default)]
    pub(crate) provider: Option<String>,
    pub(crate) tier: Tier,
    pub(crate) tags: Vec<String>,
    pub(crate) to: Vec<String>,
    pub(crate) slots: Vec<String>,
    /// What agents use; for those who may use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) placeholder: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<Source>,
    pub(crate) created: i64,
    pub(crate) last_rotation: i64,
    pub(crate) age_days: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) due: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<Health>,
    pub(crate) version: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) honeytoken: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) captured: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) for_sources: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serves: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Label>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u32>,
    pub(crate) versions: Vec<ShownVersion>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct ShownVersion {
    pub(crate) version: u32,
    pub(crate) state: String,
    pub(crate) created: i64,
    pub(crate) ended: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace_until: Option<i64>,
    pub(crate) fingerprint: String,
}

/// What agents use: the placeholder of what it serves, where that is another's reference.
pub(crate) fn placeholder(
    (name, stand_in): (&Name, Option<&str>),
    serves: Option<&Name>,
) -> String {
    let name_of_it = serves.unwrap_or(name);
    let stand_in = stand_in.and_then(|own| stand_in_for((name, own), name_of_it));
    stand_in.unwrap_or_else(|| name_of_it.reference())
}

impl From<&CredentialInfo> for Shown {
    fn from(info: &CredentialInfo) -> Self {
        let versions = info.versions.iter().map(|v| ShownVersion {
            version: v.version,
            state: v.state.as_str().to_owned(),
            created: v.created,
            ended: v.ended,
            grace_until: v.grace_until,
            fingerprint: v.fingerprint.to_string(),
        });
        let serves = info.properties.serves.as_ref();
        Self {
            name: info.name.clone(),
            provider: info.provider.clone(),
            tier: info.tier,
            tags: info.tags.clone(),
            to: info.destinations.iter().map(ToString::to_string).collect(),
            slots: info.slots.iter().map(ToString::to_string).collect(),
            placeholder: Some(placeholder((&info.name, info.stand_in.as_deref()), serves)),
            kind: info.properties.kind.clone(),
            source: info.properties.source.clone(),
            created: info.created,
            last_rotation: info.last_rotation(),
            age_days: age_days(info),
            schedule: info.properties.rotate.map(|schedule| schedule.to_string()),
            due: due(info),
            health: None,
            version: info.current().map(|v| v.version),
            honeytoken: info.properties.honeytoken,
            captured: info.properties.captured,
            for_sources: info.properties.for_sources,
            serves: info.properties.serves.clone(),
            owner: info.properties.owner.clone(),
            nodes: info.properties.nodes.clone(),
            weight: info.properties.weight,
            versions: versions.collect(),
        }
    }
}

/// When it got the secret that it has, in seconds since the Unix epoch.
pub(crate) fn rotated(info: &CredentialInfo) -> i64 {
    info.current().map_or_else(|| info.last_rotation(), |version| version.created)
}

/// Whole days since then.
pub(crate) fn age_days(info: &CredentialInfo) -> i64 {
    days_between(rotated(info), now()).max(0)
}

/// When it is due, if it has a schedule and is live.
pub(crate) fn due(info: &CredentialInfo) -> Option<i64> {
    let schedule = info.properties.rotate.filter(|_| info.current().is_some())?;
    Some(schedule.due(rotated(info)))
}

/// All credentials of the workspace.
#[derive(Default)]
pub(crate) struct ListCredentials {
    /// Only those that the audit log has no use of for so many seconds.
    pub(crate) unused_for: Option<u64>,
}

impl Order for ListCredentials {
    type Answer = Vec<Shown>;

    fn call(&self) -> Result<Call, Failure> {
        let unused = self.unused_for.map(|seconds| format!("?unused_for={seconds}"));
        Ok(Call::get(format!("/v1/credentials{}", unused.unwrap_or_default())))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Vec<Shown>, Trouble> {
        let mut all = desk.read(|vault| Ok(vault.credentials()?))?;
        if let Some(time) = self.unused_for {
            let unused = register::unused(desk, &all, time)?;
            all.retain(|info| unused.contains(info.name.as_str()));
        }
        let mut shown: Vec<Shown> = all.iter().map(Shown::from).collect();
        let mut health = desk.home().health();
        for one in &mut shown {
            // Of another version it says nothing.
            let last = health.remove(one.name.as_str());
            one.health = last.filter(|last| Some(last.version) == one.version);
        }
        Ok(shown)
    }
}

/// One of them.
pub(crate) struct ShowCredential {
    pub(crate) name: Name,
}

impl Order for ShowCredential {
    type Answer = Shown;

    fn call(&self) -> Result<Call, Failure> {
        Ok(Call::get(format!("/v1/credentials/{}", self.name)))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Shown, Trouble> {
        desk.read(|vault| Ok(Shown::from(&vault.credential(&self.name)?)))
    }
}

/// A credential. Its secret comes with it, unless it has none yet (`captured`) or it lies elsewhere. What the
/// proxy's own machine reads, runs or is known by is for those who have the files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub(crate) struct AddCredential {
    pub(crate) name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<String>,
    /// By default the provider's.
    #[serde(default)]
    pub(crate) to: Vec<String>,
    /// As `credential show` has them: `header authorization: Bearer {secret}`. By default the provider's.
    #[serde(default)]
    pub(crate) slots: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stand_in: Option<String>,
    #[serde(default)]
    pub(crate) tier: Tier,
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serves: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Label>,
    #[serde(default)]
    pub(crate) nodes: Vec<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rotate: Option<Schedule>,
    #[serde(default)]
    pub(crate) honeytoken: bool,
    /// Whether its values are taken out of answers.
    #[serde(default)]
    pub(crate) captured: bool,
    /// Whether sources of others log in with it, and no agent gets it.
    #[serde(default)]
    pub(crate) for_sources: bool,
    /// What is made of the secret, as `credential show --json` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<AtSource>,
    /// Whether a secret of under 8 bytes is taken.
    #[serde(default)]
    pub(crate) force_short: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Given>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct AddedCredential {
    pub(crate) credential: Name,
    /// None while there is none.
    pub(crate) version: Option<u32>,
    pub(crate) placeholder: String,
    pub(crate) to: Vec<String>,
}

impl Order for AddCredential {
    type Answer = AddedCredential;

    fn call(&self) -> Result<Call, Failure> {
        Call::post("/v1/credentials", self)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<AddedCredential, Trouble> {
        let (new, kept) = self.read()?;
        if let Some(source) = &new.properties.source {
            if desk.who().is_some() {
                check_is_not_of_the_machine(source)?;
            }
            desk.read(|vault| check_login(vault, source))?;
        }
        desk.write(|vault| {
            match &kept {
                Some(secret) => vault.add_credential(&new, secret)?,
                None => vault.add_captured(&new)?,
            }
            Ok(follow_certificate(vault, &new.name, true)?)
        })?;
        let own = (&new.name, new.stand_in.as_deref());
        Ok(AddedCredential {
            placeholder: placeholder(own, new.properties.serves.as_ref()),
            to: new.destinations.iter().map(ToString::to_string).collect(),
            credential: new.name,
            version: kept.map(|_| 1),
        })
    }
}

impl AddCredential {
    /// What is to be stored, and what is kept of its secret. What is wrong with it says nothing of the secret.
    fn read(self) -> Result<(NewCredential, Option<Secret>), Trouble> {
        let provider = self.provider.as_deref().map(provider_of).transpose()?;
        let to: Vec<Destination> = match provider.filter(|_| self.to.is_empty()) {
            Some(provider) => provider_to(provider)?,
            None => parsed("to", &self.to)?,
        };
        let source = self.source.as_ref().map(AtSource::read).transpose()?;
        check_owner(self.tier, self.owner.as_ref(), self.serves.as_ref())?;
        check_schedule(self.rotate)?;
        if self.weight.is_some_and(|weight| !(1..=MAX_WEIGHT).contains(&weight)) {
            return Err(Failure::usage(format!("weight: it is 1 to {MAX_WEIGHT}")).into());
        }
        let slots = self.slots(provider)?;
        let stand_in = self.stand_in.clone().or_else(|| {
            let reference = self.name.reference();
            let own = self.kind.as_ref().and_then(|kind| stand_in_of(kind, &reference));
            own.or_else(|| provider?.stand_in(&reference))
        });
        let kept = self.kept(source.as_ref())?;
        let new = NewCredential {
            provider: self.provider,
            tier: self.tier,
            tags: self.tags,
            destinations: to,
            slots,
            stand_in,
            properties: Properties {
                honeytoken: self.honeytoken,
                captured: self.captured,
                for_sources: self.for_sources,
                kind: self.kind,
                source,
                serves: self.serves.filter(|serves| *serves != self.name),
                owner: self.owner,
                nodes: self.nodes,
                weight: self.weight.filter(|weight| *weight != 1),
                rotate: self.rotate,
            },
            name: self.name,
        };
        Ok((new, kept))
    }

    fn slots(&self, provider: Option<&Provider>) -> Result<Vec<Slot>, Failure> {
        let given: Vec<Slot> = parsed("slots", &self.slots)?;
        if let Some(kind) = &self.kind {
            let own = provider.and_then(|provider| provider_slots(provider).ok());
            return slots_of(kind, given, own.unwrap_or_default());
        }
        if given.iter().any(|slot| matches!(slot, Slot::Aws | Slot::Certificate)) {
            return Err(Failure::usage("a slot of this shape belongs to a kind")
                .help("say what is made of the secret: `aws`, or `client-certificate`"));
        }
        match provider.filter(|_| given.is_empty()) {
            Some(provider) => provider_slots(provider),
            None => Ok(given),
        }
    }

    /// What lies in the vault for it; nothing for what is captured.
    fn kept(&self, source: Option<&Source>) -> Result<Option<Secret>, Trouble> {
        let Self { captured, for_sources, honeytoken, serves, .. } = self;
        if let Some(kind) = &self.kind {
            check_kind(kind, source)?;
        }
        if *for_sources && (*honeytoken || *captured || serves.is_some()) {
            let what = "what sources log in with is for nothing else";
            return Err(Trouble::wrong(what, "leave `honeytoken`, `captured` and `serves` out"));
        }
        if *honeytoken && self.force_short {
            let what = "a honeytoken that is short would be known nowhere, and raise no alarm";
            return Err(Trouble::wrong(what, "leave `force_short` out"));
        }
        if *captured && (*honeytoken || source.is_some() || self.secret.is_some()) {
            let what = "what is captured has no other value";
            return Err(Trouble::wrong(what, "leave `honeytoken`, `source` and `secret` out"));
        }
        let secret = self.secret.as_ref().map(|given| &given.0);
        match (source, &self.kind, secret) {
            _ if *captured => Ok(None),
            (Some(source), _, None) if !source.wants_login() => {
                Ok(Some(Secret::new(ELSEWHERE.to_vec())))
            }
            (Some(source), _, Some(_)) if !source.wants_login() => {
                let what = "a source that asks for no login takes no secret";
                Err(Trouble::wrong(what, "leave `secret` out"))
            }
            (_, _, None) => Err(Trouble::wrong("there is no secret", "give it: `secret`")),
            (None, Some(kind), Some(secret)) => Ok(Some(kept_material(kind, secret)?)),
            (_, _, Some(secret)) => Ok(Some(checked(secret, self.force_short)?)),
        }
    }
}

/// A provider of the catalogue, or the nearest one as advice.
pub(crate) fn provider_of(id: &str) -> Result<&'static Provider, Failure> {
    let catalog = Catalog::embedded();
    catalog.get(id).ok_or_else(|| {
        let failure = Failure::usage(format!("the catalogue has no provider `{id}`"));
        match catalog.suggest(id) {
            Some(near) => failure.help(format!(
                "did you mean `{near}`? `locum credential providers` lists them all"
            )),
            None => failure.help(
                "`locum credential providers` lists them; for another, say where it goes and how with --to and --header",
            ),
        }
    })
}

/// A user's credential is that of one user, and only a user's has an owner.
pub(crate) fn check_owner(
    tier: Tier,
    owner: Option<&Label>,
    serves: Option<&Name>,
) -> Result<(), Failure> {
    match (tier, owner) {
        (Tier::User, None) if serves.is_some() => Err(Failure::usage(
            "a credential of the tier `user` serves others' references for one user",
        )
        .help("say for whom with --owner USER")),
        (Tier::Builder | Tier::Platform, Some(_)) => {
            Err(Failure::usage("only a credential of the tier `user` has an owner")
                .help("add --tier user"))
        }
        _ => Ok(()),
    }
}

/// Ten years: who means longer means never.
pub(crate) const LONGEST_DAYS: u32 = 3650;

fn check_schedule(rotate: Option<Schedule>) -> Result<(), Failure> {
    match rotate {
        Some(Schedule::Days(days)) if !(1..=LONGEST_DAYS).contains(&days) => {
            Err(Failure::usage(format!("rotate: it is 1 to {LONGEST_DAYS} days")))
        }
        _ => Ok(()),
    }
}

/// A secret that can be used.
fn checked(secret: &Secret, force_short: bool) -> Result<Secret, Trouble> {
    let sound = secret.expose(|bytes| validate_secret(bytes, force_short));
    sound.map_err(|why| Failure::usage(format!("the secret cannot be stored: {why}")))?;
    Ok(secret.expose(|bytes| Secret::new(bytes.to_vec())))
}

fn parsed<T: std::str::FromStr>(key: &str, texts: &[String]) -> Result<Vec<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    let one = |text: &String| {
        text.parse().map_err(|error: T::Err| Failure::usage(format!("{key}: {error}")))
    };
    texts.iter().map(one).collect()
}

/// A new secret for a credential, in force or only kept ready.
pub(crate) struct RotateCredential {
    pub(crate) name: Name,
    pub(crate) new: Rotation,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    pub(crate) secret: Given,
    /// How long what began with the old version may still use it, in seconds; by default as
    /// `credentials.grace` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace: Option<u64>,
    /// Whether it is only added, and no request gets it before it is promoted.
    #[serde(default)]
    pub(crate) stage: bool,
    #[serde(default)]
    pub(crate) force_short: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Rotated {
    pub(crate) name: Name,
    /// The version that was added or promoted.
    pub(crate) version: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) staged: bool,
    /// The version that requests had before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<u32>,
    /// For how many seconds what began with that one may finish with it.
    #[serde(default)]
    pub(crate) grace: u64,
}

impl Order for RotateCredential {
    type Answer = Rotated;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/credentials/{}/rotate", self.name), &self.new)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Rotated, Trouble> {
        let Self { name, new: Rotation { secret, grace, stage, force_short } } = self;
        if stage && grace.is_some() {
            return Err(Trouble::wrong("what is staged ends nothing", "leave `grace` out"));
        }
        let grace = grace_of(desk, grace)?;
        desk.write(|vault| {
            let secret = to_be_kept(vault, &name, &secret.0, force_short)?;
            if stage {
                let version = vault.stage(&name, &secret)?;
                return Ok(Rotated { name, version, staged: true, before: None, grace: 0 });
            }
            let promotion = vault.rotate_with_grace(&name, &secret, grace)?;
            follow_certificate(vault, &name, false)?;
            Ok(Rotated::of(name, promotion, grace))
        })
    }
}

impl Rotated {
    fn of(name: Name, Promotion { current, before }: Promotion, grace: i64) -> Self {
        Self { name, version: current, staged: false, before, grace: grace.unsigned_abs() }
    }
}

/// That a credential takes a new secret at all. Asked before the secret is: a wrong name should not cost
/// a paste.
pub(crate) fn require_own_secret(name: &Name, source: Option<&Source>) -> Result<(), Failure> {
    match source {
        Some(source) if !source.wants_login() => Err(Failure::usage(format!(
            "{name} has no secret in this vault: it comes from {source}"
        ))
        .help("change it there; it is followed by itself")),
        _ => Ok(()),
    }
}

/// What is kept of a new secret.
fn to_be_kept(
    vault: &Vault,
    name: &Name,
    secret: &Secret,
    force_short: bool,
) -> Result<Secret, Trouble> {
    let Properties { kind, source, .. } = vault.credential(name)?.properties;
    require_own_secret(name, source.as_ref())?;
    match kind.filter(|_| source.is_none()) {
        // What a kind makes its value of lies elsewhere where there is a source; here is the login there.
        Some(kind) => Ok(rotated_material(vault, name, &kind, secret)?),
        None => checked(secret, force_short),
    }
}

fn grace_of(desk: &impl Desk, seconds: Option<u64>) -> Result<i64, Trouble> {
    let seconds = match seconds {
        Some(seconds) if seconds > MAX_GRACE.as_secs() => {
            return Err(Failure::usage("a grace is 30d at most").into());
        }
        Some(seconds) => seconds,
        None => desk.grace()?.as_secs(),
    };
    Ok(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// Makes the staged version, or one that is named, the one that requests get.
pub(crate) struct PromoteCredential {
    pub(crate) name: Name,
    pub(crate) how: Promoting,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Promoting {
    /// As with a rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grace: Option<u64>,
    /// One that is staged or retired; by default the staged one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u32>,
}

impl Order for PromoteCredential {
    type Answer = Rotated;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/credentials/{}/promote", self.name), &self.how)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Rotated, Trouble> {
        let Self { name, how: Promoting { grace, version } } = self;
        let grace = grace_of(desk, grace)?;
        desk.write(|vault| {
            let promotion = match version {
                Some(version) => vault.promote_version(&name, version, grace)?,
                None => vault.promote(&name, grace)?,
            };
            follow_certificate(vault, &name, false)?;
            Ok(Rotated::of(name, promotion, grace))
        })
    }
}

/// Ends the use of a credential, or of one version of it.
pub(crate) struct RevokeCredential {
    pub(crate) name: Name,
    pub(crate) what: Revoking,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Revoking {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u32>,
    /// Whether what carries it is broken off, too.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) cut: bool,
    /// Whether what is revoked already is named, instead of being a mistake: asked again by whoever did not hear that
    /// it was in force.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) again: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Revoked {
    pub(crate) credential: Name,
    pub(crate) versions: Vec<u32>,
    pub(crate) cut: bool,
    /// The version that requests get from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<u32>,
}

impl Order for RevokeCredential {
    type Answer = Revoked;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/credentials/{}/revoke", self.name), &self.what)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Revoked, Trouble> {
        let Self { name, what: Revoking { version, cut, again } } = self;
        desk.write(|vault| {
            let meant = |vault: &Vault, all: bool| -> Result<Vec<u32>, VaultError> {
                let info = vault.credential(&name)?;
                let all = info.versions.iter().filter(|v| all || v.state != VersionState::Revoked);
                let all = all.map(|one| one.version);
                Ok(all.filter(|own| version.is_none_or(|one| one == *own)).collect())
            };
            let live = meant(vault, false)?;
            let is_over = again && live.is_empty();
            let versions = if cut || is_over { meant(vault, true)? } else { live };
            match (cut, version) {
                (true, version) => vault.cut(&name, version)?,
                (false, _) if is_over && !versions.is_empty() => {}
                (false, Some(version)) => vault.revoke_version(&name, version)?,
                (false, None) => vault.revoke(&name)?,
            }
            let current = vault.credential(&name)?.current().map(|version| version.version);
            Ok(Revoked { credential: name.clone(), versions, cut, current })
        })
    }
}

/// Removes a credential with all its versions.
pub(crate) struct RemoveCredential {
    pub(crate) name: Name,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Removed {
    pub(crate) name: Name,
    pub(crate) removed: bool,
}

impl Order for RemoveCredential {
    type Answer = Removed;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/credentials/{}/remove", self.name), &serde_json::json!({}))
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Removed, Trouble> {
        desk.write(|vault| Ok(vault.remove(&self.name)?))?;
        Ok(Removed { name: self.name, removed: true })
    }
}

/// How often a credential is to be rotated; never, where nothing is said.
pub(crate) struct ScheduleCredential {
    pub(crate) name: Name,
    pub(crate) how: Scheduling,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scheduling {
    /// `{"days": 30}`, `{"sensitivity": "high"}`, or null.
    pub(crate) rotate: Option<Schedule>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Scheduled {
    pub(crate) credential: Name,
    pub(crate) due: Option<i64>,
}

impl Order for ScheduleCredential {
    type Answer = Scheduled;

    fn call(&self) -> Result<Call, Failure> {
        Call::post(format!("/v1/credentials/{}/schedule", self.name), &self.how)
    }

    fn carry_out(self, desk: &mut impl Desk) -> Result<Scheduled, Trouble> {
        let Self { name, how: Scheduling { rotate } } = self;
        check_schedule(rotate)?;
        let due = desk.write(|vault| {
            vault.set_properties(&name, |properties| properties.rotate = rotate)?;
            Ok(due(&vault.credential(&name)?))
        })?;
        Ok(Scheduled { credential: name, due })
    }
}
