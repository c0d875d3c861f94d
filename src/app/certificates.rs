//! The certificates of the proxy's own listeners: read at the start, and again when their files
//! change, because certificates are renewed more often than proxies are restarted.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use super::Failure;
use super::stamp::FileStamp;
use crate::agent::certificate::RevocationList;
use crate::config::{ClientCertificates, Config, ListenAt, ListenerTls as Setting};
use crate::files;
use crate::secret::Secret;
use crate::tls::{ListenerPem, ListenerTls, revocation_lists};

/// A chain with its intermediates has 10 KiB; a bundle of client CAs may have a few hundred.
const PEM_LIMIT: u64 = 1 << 20;

/// A list of a large CA: some 500,000 certificates.
const CRL_LIMIT: u64 = 32 << 20;

/// The longest RSA key in use has 13 KiB in PEM.
const KEY_LIMIT: usize = 64 << 10;

/// One listener's TLS, and the files that it was made from.
pub(super) struct Certificates {
    pub(super) tls: Arc<ListenerTls>,
    at: ListenAt,
    /// None when the next look must read them, whatever their stamps say.
    stamps: Option<Vec<FileStamp>>,
    problem: Option<String>,
    /// What the CAs of its clients have revoked.
    lists: Vec<RevocationList>,
    /// Whether it was said that one of the lists has run out.
    told_stale: bool,
}

/// What a look at the files came to.
pub(super) enum Look {
    Same,
    Reloaded,
    /// A list has run out, which is told once.
    RunOut(String),
    /// The last good certificate stays. Told once for each problem.
    Rejected {
        news: Option<String>,
    },
}

impl Certificates {
    /// Reads what a listener is to show.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not fit together.
    pub(super) fn read(at: &ListenAt, setting: &Setting) -> Result<Self, Failure> {
        let stamps = Some(stamps(setting)).filter(|all| all.iter().all(FileStamp::is_settled));
        let pem = pem(setting)?;
        let tls = ListenerTls::new(&pem).map_err(|e| unusable(setting, &e))?;
        let (tls, at, lists) = (Arc::new(tls), at.clone(), lists(setting, &pem)?);
        Ok(Self { tls, at, stamps, problem: None, lists, told_stale: false })
    }

    /// Reads the files anew if they changed, or if `asked`.
    pub(super) fn look(&mut self, config: &Config, asked: bool) -> Look {
        let proxy = config.proxy.listen.iter().find(|listen| listen.at == self.at);
        let admin =
            config.admin.tls.as_ref().filter(|_| config.admin.listen.as_ref() == Some(&self.at));
        // A listener that the config has no more, or without TLS, goes on as it is until the restart.
        let Some(setting) = proxy.and_then(|listen| listen.tls.as_ref()).or(admin) else {
            return Look::Same;
        };
        let now = stamps(setting);
        // As with policies: what is being written is read when it has been.
        let settled = now.iter().all(FileStamp::is_settled);
        if !asked && (!settled || self.stamps.as_ref() == Some(&now)) {
            return self.look_at_lists(setting);
        }
        let changed = self.stamps.as_ref() != Some(&now);
        self.stamps = settled.then_some(now);
        let replaced = pem(setting).and_then(|pem| {
            let lists = lists(setting, &pem)?;
            self.tls.replace(&pem).map_err(|error| unusable(setting, &error))?;
            (self.lists, self.told_stale) = (lists, false);
            Ok(())
        });
        match replaced {
            Ok(()) if self.problem.take().is_none() && !changed => Look::Same,
            Ok(()) => Look::Reloaded,
            Err(error) => {
                let text = error.to_string();
                let news = (self.problem.as_ref() != Some(&text)).then(|| text.clone());
                self.problem = Some(text);
                Look::Rejected { news }
            }
        }
    }

    /// Says when a list has run out: nobody whom it speaks of is let in then.
    fn look_at_lists(&mut self, setting: &Setting) -> Look {
        let stale = !self.lists_are_current();
        if !stale || std::mem::replace(&mut self.told_stale, stale) {
            self.told_stale = stale;
            return Look::Same;
        }
        self.tls.look_again();
        let crl = setting.clients.as_ref().and_then(|clients| clients.crl.as_ref());
        let file = crl.map(|path| path.display().to_string()).unwrap_or_default();
        Look::RunOut(file)
    }

    fn lists_are_current(&self) -> bool {
        let now = jiff::Timestamp::now().as_second();
        // An old one beside a new one is no trouble.
        self.lists.iter().all(|list| {
            let mut same = self.lists.iter().filter(|other| other.issuer == list.issuer);
            same.any(|list| list.is_current(now))
        })
    }

    /// What the CAs of its clients have revoked.
    pub(super) fn lists(&self) -> &[RevocationList] {
        &self.lists
    }

    /// Whose they are.
    pub(super) fn at(&self) -> &ListenAt {
        &self.at
    }

    /// Whether the files are as they should be.
    pub(super) fn sound(&self) -> bool {
        self.problem.is_none() && self.lists_are_current()
    }
}

fn stamps<'s>(setting: &'s Setting) -> Vec<FileStamp> {
    let files = |clients: &'s ClientCertificates| [Some(&clients.ca), clients.crl.as_ref()];
    let clients = setting.clients.iter().flat_map(files).flatten();
    let all = [&setting.certificate, &setting.key].into_iter().chain(clients);
    all.map(|path| FileStamp::of(path.clone())).collect()
}

fn unusable(setting: &Setting, error: &crate::tls::TlsError) -> Failure {
    use crate::tls::TlsError;
    let (certificate, key) = (setting.certificate.display(), setting.key.display());
    let file = match error {
        TlsError::KeyUnreadable => key.to_string(),
        TlsError::KeyMismatch => format!("{certificate} and {key}"),
        TlsError::ClientAuthority => {
            let ca = setting.clients.as_ref().map(|clients| clients.ca.display().to_string());
            ca.unwrap_or_default()
        }
        TlsError::Revocations => {
            let crl = setting.clients.as_ref().and_then(|clients| clients.crl.as_ref());
            crl.map(|path| path.display().to_string()).unwrap_or_default()
        }
        _ => certificate.to_string(),
    };
    Failure::usage(format!("{file}: {error}"))
        .help("mend the file, or `tls` of proxy in locum.yaml")
}

fn pem(setting: &Setting) -> Result<ListenerPem, Failure> {
    let clients = setting.clients.as_ref();
    Ok(ListenerPem {
        certificate: public(&setting.certificate)?,
        key: private(&setting.key)?,
        client_ca: clients.map(|clients| public(&clients.ca)).transpose()?,
        client_crl: clients
            .and_then(|clients| clients.crl.as_deref())
            .map(|path| read_public(path, CRL_LIMIT))
            .transpose()?,
        client_required: clients.is_some_and(|clients| clients.required),
    })
}

/// What a listener's lists say.
fn lists(setting: &Setting, pem: &ListenerPem) -> Result<Vec<RevocationList>, Failure> {
    let read = pem.client_crl.as_deref().map(revocation_lists).transpose();
    Ok(read.map_err(|error| unusable(setting, &error))?.unwrap_or_default())
}

fn public(path: &Path) -> Result<Vec<u8>, Failure> {
    read_public(path, PEM_LIMIT)
}

fn read_public(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(bytes)
}

/// Through links, as certificate managers and Kubernetes renew files by turning one.
fn private(path: &Path) -> Result<Secret, Failure> {
    let real = path.canonicalize();
    let real = real.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let mut bytes =
        files::read_lent(&real, KEY_LIMIT).map_err(|error| Failure::from(error).of_config())?;
    Ok(Secret::new(std::mem::take(&mut *bytes)))
}
