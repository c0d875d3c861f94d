//! From a host's name to a connected socket: resolve once, vet every address of the answer, dial
//! only addresses that were vetted.
//!
//! The name is never handed to anything that would resolve it again, so an answer that changes
//! between check and dial has nothing to change.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::guard::{AddressClass, AddressGuard, Forbidden, classify};
use super::resolve::Resolve;
use crate::host::{Authority, Host};
use crate::outcome::{Code, Refusal};

/// How long an attempt has the field to itself before the next address is tried beside it
/// (RFC 8305 section 5, "Connection Attempt Delay").
const STAGGER: Duration = Duration::from_millis(250);

/// Probes of a silent connection: first after a minute, so that NATs and firewalls, which forget
/// after a few, keep it while a model thinks; then each 15 s, and dead after four without an answer.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Bytes that the kernel takes before it has sent them. What one side does not read stays with the other, costs
/// no memory and no work, and is still here when its rule goes; without a bound the kernel takes megabytes for
/// each connection. Whoever reads has more than this underway, which is not counted.
const UNSENT: u32 = 128 * 1024;

/// Where this process itself listens: proxy, operations, every listener.
#[derive(Clone, Debug, Default)]
pub struct SelfAddresses {
    listeners: Box<[SocketAddr]>,
}

impl SelfAddresses {
    /// The addresses that the listeners are bound to.
    #[must_use]
    pub fn new(listeners: Vec<SocketAddr>) -> Self {
        Self { listeners: listeners.into_iter().map(canonical).collect() }
    }

    /// Whether a connection to `target` would come back to this process.
    #[must_use]
    pub fn contains(&self, target: SocketAddr) -> bool {
        self.leads_back(canonical(target), is_local)
    }

    /// The rule, with the look at the machine's interfaces as a parameter: asked only when the port
    /// is ours and the listener takes every local address.
    fn leads_back(&self, target: SocketAddr, local: impl Fn(SocketAddr) -> bool) -> bool {
        self.listeners.iter().filter(|own| own.port() == target.port()).any(|own| {
            own.ip() == target.ip()
                    || (own.ip().is_unspecified() && local(target))
                    // Dialling 0.0.0.0 or :: reaches loopback.
                    || (target.ip().is_unspecified() && own.ip().is_loopback())
        })
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        // Unchanged, with its scope: a link-local address means nothing without it.
        IpAddr::V6(_) => address,
    }
}

/// Whether the machine has this address. Only a local address can be bound; a datagram socket on
/// port 0 sends nothing, disturbs nobody, and needs no list of interfaces, which the standard
/// library does not give.
fn is_local(address: SocketAddr) -> bool {
    let ip = address.ip();
    let mut any_port = address;
    any_port.set_port(0);
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind(any_port).is_ok()
}

/// How far the addresses of a target are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vetting {
    /// The agent named the host: the guard decides.
    Guarded,
    /// The operator named this target in `upstream.hosts`: private addresses are meant. Where the
    /// operator gave a name, and not the address itself, what no origin lives at stays closed.
    Operator,
}

/// Who looks at the addresses of a name that a proxy on the way will connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// This process too: it resolves the name and vets what comes, as if it went there itself.
    Vetted,
    /// The proxy alone, because only it can resolve them.
    LeftToProxy,
}

/// How long it is remembered that a host answered over the other family than the one the resolver put
/// first. Where packets of one family vanish, each connection would else wait for [`STAGGER`]; a
/// network that was mended is found out about within this time (RFC 8305 section 4 has it so).
const REMEMBERED: Duration = Duration::from_mins(10);

/// Hosts of which it is remembered. An agent may go to any number; what is forgotten costs a wait.
const HOSTS: usize = 4096;

/// Hosts whose first family did not answer, and since when.
#[derive(Default)]
pub(super) struct OtherFamily(Mutex<HashMap<Authority, Instant>>);

impl OtherFamily {
    /// Whether the host's other family is to be tried first.
    fn is_better(&self, target: &Authority) -> bool {
        self.0.lock().get(target).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    /// Notes that the second family won, or that it did not.
    fn note(&self, target: &Authority, won: bool) {
        let mut hosts = self.0.lock();
        if !won {
            hosts.remove(target);
            return;
        }
        if hosts.len() >= HOSTS {
            hosts.clear();
        }
        hosts
            .entry(target.clone())
            .and_modify(|since| {
                if since.elapsed() >= REMEMBERED {
                    *since = Instant::now();
                }
            })
            .or_insert_with(Instant::now);
    }
}

/// Makes TCP connections to vetted addresses.
pub(super) struct Dialer {
    pub(super) other_family: OtherFamily,
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) guard: AddressGuard,
    pub(super) own: SelfAddresses,
    /// For resolving and connecting together.
    pub(super) timeout: Duration,
}

impl Dialer {
    /// Resolves on behalf of `asker`, vets and connects.
    pub(super) async fn dial(
        &self,
        target: &Authority,
        vetting: Vetting,
        asker: &str,
    ) -> Result<TcpStream, Refusal> {
        // No authority that was parsed has it; an address with port 0 means something else everywhere.
        if target.port == 0 {
            return Err(Refusal::with_detail(Code::BadRequest, "port 0 is no port"));
        }
        let deadline = Instant::now() + self.timeout;
        let addresses = self.resolve(target, deadline, asker).await?;
        self.vet(target, &addresses, vetting)?;
        let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
        let mixed = addresses.iter().any(|address| address.is_ipv6() != first_is_v6);
        let other_first = mixed && self.other_family.is_better(target);
        match timeout_at(deadline, race(interleave(addresses, first_is_v6 != other_first))).await {
            Ok(Ok(stream)) => {
                if mixed && let Ok(peer) = stream.peer_addr() {
                    self.other_family.note(target, peer.is_ipv6() != first_is_v6);
                }
                Ok(stream)
            }
            Ok(Err(error)) => Err(connect_refusal(target, &error)),
            Err(_) => Err(Refusal::with_detail(
                Code::ConnectTimeout,
                format!("{target} did not accept a connection in {:?}", self.timeout),
            )),
        }
    }

    /// Vets a target that a proxy on the way will connect to, as far as that can be done here. An
    /// address is vetted as ever. A name is resolved and vetted too, unless only the proxy can
    /// resolve it; the proxy resolves it once more, and what it finds then is its own affair.
    pub(super) async fn vet_behind_proxy(
        &self,
        target: &Authority,
        (vetting, names): (Vetting, Names),
        asker: &str,
    ) -> Result<(), Refusal> {
        match (&target.host, vetting, names) {
            // RFC 6761 section 6.3: always the machine itself, here the proxy's.
            (Host::Name(name), Vetting::Guarded, _) if is_localhost(name) => {
                return Err(forbidden(target, AddressClass::Loopback));
            }
            (Host::Name(_), Vetting::Operator, _) | (Host::Name(_), _, Names::LeftToProxy) => {
                return Ok(());
            }
            _ => {}
        }
        let deadline = Instant::now() + self.timeout;
        let addresses = self.resolve(target, deadline, asker).await;
        let addresses = addresses.map_err(|refusal| {
            let why =
                "; where only the proxy can resolve names, set vet_names: false beside its url";
            Refusal { detail: format!("{}{why}", refusal.detail).into(), ..refusal }
        })?;
        self.vet(target, &addresses, vetting)
    }

    async fn resolve(
        &self,
        target: &Authority,
        deadline: Instant,
        asker: &str,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let name = match &target.host {
            Host::Address(ip) => return Ok(vec![SocketAddr::new(*ip, target.port)]),
            Host::Name(name) => name,
        };
        let host = &target.host;
        let mut resolving = self.resolver.resolve(name, target.port, asker);
        let why = match timeout_at(deadline, resolving.as_mut()).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => {
                return Ok(addresses.into_iter().map(|a| with_port(a, target.port)).collect());
            }
            Ok(Ok(_)) => format!("{host} has no address"),
            // The resolver's own words tell a name that is not there from a resolver that is not.
            Ok(Err(error)) => format!("{host} does not resolve: {error}"),
            // Nothing is known of the host: that is the agent's own matter.
            Err(_) if self.resolver.waits(name, asker) => {
                let detail = "As many names are looked up at once as may be, of this agent or in all, and none is answered";
                return Err(Refusal::with_detail(Code::Overloaded, detail));
            }
            Err(_) => format!("the resolver gave no answer for {host} in {:?}", self.timeout),
        };
        Err(Refusal::with_detail(Code::DnsError, why))
    }

    /// One address that may not be dialled closes the whole answer. An honest zone does not mix
    /// public and private addresses under one name; a rebinding attack does, and trying the
    /// permitted half would let it decide by dropping packets which half is left.
    fn vet(
        &self,
        target: &Authority,
        addresses: &[SocketAddr],
        vetting: Vetting,
    ) -> Result<(), Refusal> {
        if addresses.iter().any(|a| self.own.contains(*a)) {
            return Err(Refusal::with_detail(Code::Loop, format!("{target} is this proxy itself")));
        }
        let literal = target.host.address().is_some();
        addresses
            .iter()
            .try_for_each(|address| match vetting {
                Vetting::Guarded => self.guard.check(address.ip()),
                Vetting::Operator if literal => Ok(()),
                Vetting::Operator => self.check_named_by_operator(address.ip()),
            })
            .map_err(|Forbidden { class }| forbidden(target, class))
    }

    fn check_named_by_operator(&self, ip: IpAddr) -> Result<(), Forbidden> {
        match classify(ip) {
            Some(
                AddressClass::Metadata
                | AddressClass::Multicast
                | AddressClass::Broadcast
                | AddressClass::Unspecified,
            ) => self.guard.check(ip),
            _ => Ok(()),
        }
    }
}

fn forbidden(target: &Authority, class: AddressClass) -> Refusal {
    let detail = format!("{} has a forbidden address ({class})", target.host);
    Refusal::with_detail(Code::AddressForbidden, detail).because(class.as_str())
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// What is dialled is the port that was asked for, whatever a resolver puts in.
fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Alternates the families, beginning with the one that is said (RFC 8305 section 4), and drops
/// repetitions.
fn interleave(addresses: Vec<SocketAddr>, first_is_v6: bool) -> Vec<SocketAddr> {
    let mut unique: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    for address in addresses {
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    let (favoured, other): (Vec<_>, Vec<_>) =
        unique.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut mixed = Vec::with_capacity(favoured.len() + other.len());
    for address in favoured {
        mixed.push(address);
        mixed.extend(other.next());
    }
    mixed.extend(other);
    mixed
}

/// Happy eyeballs (RFC 8305): the first connection wins, the others are dropped.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [only] = addresses[..] {
        return connect(only).await;
    }
    let mut waiting = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut first_failure = None;
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(connect(address));
        }
        tokio::select! {
            done = attempts.join_next() => match done {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => { first_failure.get_or_insert(error); }
                Some(Err(panicked)) => { first_failure.get_or_insert(io::Error::other(panicked)); }
                None => return Err(first_failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Sets what every connection of the proxy has, on either side of it.
///
/// # Errors
/// When the socket is gone.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    // Without it, a request of two writes waits for the delayed acknowledgement of the first: 40 ms.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)
}

/// Says whose fault it is: the host's, the network's, or this machine's.
fn connect_refusal(target: &Authority, error: &io::Error) -> Refusal {
    use io::ErrorKind;
    let out_of_files =
        [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];
    if error.raw_os_error().is_some_and(|e| out_of_files.contains(&e)) {
        return Refusal::with_detail(Code::Overloaded, "the proxy has no file descriptor left");
    }
    let (code, what) = match error.kind() {
        ErrorKind::ConnectionRefused => (Code::ConnectFailed, "refused the connection"),
        ErrorKind::TimedOut => (Code::ConnectTimeout, "did not accept a connection in time"),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            (Code::ConnectFailed, "cannot be reached over this network")
        }
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => {
            (Code::ConnectFailed, "reset the connection at once")
        }
        _ => (Code::ConnectFailed, "does not accept a connection"),
    };
    Refusal::with_detail(code, format!("{target} {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::resolve::Resolving;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers from a list, and counts the questions.
    struct Fixed(Vec<&'static str>, AtomicUsize);

    impl Resolve for Fixed {
        fn resolve<'a>(&'a self, _: &'a str, _: u16, _: &'a str) -> Resolving<'a> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let addresses = self.0.iter().map(|a| socket(a)).collect();
            Box::pin(async move { Ok(addresses) })
        }
    }

    struct Silent;

    impl Resolve for Silent {
        fn resolve<'a>(&'a self, _: &'a str, _: u16, _: &'a str) -> Resolving<'a> {
            Box::pin(std::future::pending())
        }
    }

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn authority(text: &str) -> Authority {
        Authority::parse(text, None).unwrap()
    }

    fn dialer(resolver: impl Resolve + 'static) -> Dialer {
        Dialer {
            other_family: OtherFamily::default(),
            resolver: Arc::new(resolver),
            guard: AddressGuard::default(),
            own: SelfAddresses::new(vec![socket("127.0.0.1:3128"), socket("[::]:3129")]),
            timeout: Duration::from_millis(20),
        }
    }

    fn answer(addresses: &[&'static str]) -> Dialer {
        dialer(Fixed(addresses.to_vec(), AtomicUsize::new(0)))
    }

    async fn code(dialer: &Dialer, target: &str, vetting: Vetting) -> Code {
        let dialled = dialer.dial(&authority(target), vetting, "a").await;
        dialled.map(|_| ()).unwrap_err().code
    }

    fn vetted(target: &str, addresses: &[&str], vetting: Vetting) -> Result<(), Refusal> {
        let addresses: Vec<_> = addresses.iter().map(|a| socket(a)).collect();
        answer(&[]).vet(&authority(target), &addresses, vetting)
    }

    #[tokio::test]
    async fn one_forbidden_address_closes_a_mixed_answer() {
        let mixed = answer(&["8.8.8.8:443", "10.0.0.1:443"]);
        let refused = code(&mixed, "rebind.test:443", Vetting::Guarded).await;
        assert_eq!(refused, Code::AddressForbidden);
    }

    #[tokio::test]
    async fn an_address_is_vetted_without_a_resolver() {
        let dialer = answer(&[]);
        for literal in ["10.0.0.1:443", "[::ffff:127.0.0.1]:443", "[64:ff9b::8.8.8.8]:443"] {
            let refused = code(&dialer, literal, Vetting::Guarded).await;
            assert_eq!(refused, Code::AddressForbidden, "{literal}");
        }
    }

    #[tokio::test]
    async fn a_name_without_addresses_or_answer_is_a_dns_error() {
        let empty = code(&answer(&[]), "empty.test:443", Vetting::Guarded).await;
        assert_eq!(empty, Code::DnsError);
        let silent = code(&dialer(Silent), "slow.test:443", Vetting::Guarded).await;
        assert_eq!(silent, Code::DnsError);
    }

    #[tokio::test]
    async fn the_family_that_answered_is_tried_first_the_next_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = authority(&format!("internal:{}", listener.local_addr().unwrap().port()));
        let mut dialer = answer(&["[::1]:1", "127.0.0.1:1"]);
        dialer.timeout = Duration::from_secs(10);
        // Nobody listens on the first.
        dialer.dial(&target, Vetting::Operator, "a").await.unwrap();
        assert!(dialer.other_family.is_better(&target));
        dialer.dial(&target, Vetting::Operator, "a").await.unwrap();
        assert!(dialer.other_family.is_better(&target), "it was not the first that won");
        // Where the resolver puts the other first, there is nothing to remember.
        let mut other = answer(&["127.0.0.1:1", "[::1]:1"]);
        other.timeout = Duration::from_secs(10);
        other.dial(&target, Vetting::Operator, "a").await.unwrap();
        assert!(!other.other_family.is_better(&target));
        let order = interleave(vec![socket("[::1]:1"), socket("127.0.0.1:1")], false);
        assert_eq!(order, [socket("127.0.0.1:1"), socket("[::1]:1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_of_a_family_is_forgotten_in_time() {
        let (families, target) = (OtherFamily::default(), authority("a.test:443"));
        families.note(&target, true);
        tokio::time::advance(REMEMBERED / 2).await;
        families.note(&target, true);
        assert!(families.is_better(&target));
        tokio::time::advance(REMEMBERED / 2).await;
        assert!(!families.is_better(&target), "the first was never tried again");
        families.note(&target, true);
        assert!(families.is_better(&target));
        families.note(&target, false);
        assert!(!families.is_better(&target));
        for n in 0..=HOSTS {
            families.note(&authority(&format!("h{n}.test:443")), true);
        }
        assert!(families.0.lock().len() <= HOSTS);
    }

    #[tokio::test]
    async fn port_0_is_refused() {
        let mut target = authority("a.test:1");
        target.port = 0;
        let refused = answer(&["8.8.8.8:0"]).dial(&target, Vetting::Guarded, "a").await;
        assert_eq!(refused.map(|_| ()).unwrap_err().code, Code::BadRequest);
    }

    #[tokio::test]
    async fn the_resolver_does_not_choose_the_port() {
        let dialer = answer(&["8.8.8.8:22"]);
        let found =
            dialer.resolve(&authority("a.test:443"), Instant::now() + STAGGER, "a").await.unwrap();
        assert_eq!(found, [socket("8.8.8.8:443")]);
    }

    #[test]
    fn the_operator_may_name_private_hosts_but_not_by_name_a_metadata_service() {
        let operator = |target, address| vetted(target, &[address], Vetting::Operator);
        assert_eq!(operator("10.0.0.1:443", "10.0.0.1:443"), Ok(()));
        assert_eq!(operator("169.254.169.254:80", "169.254.169.254:80"), Ok(()));
        assert_eq!(operator("internal:443", "10.0.0.1:443"), Ok(()));
        assert!(operator("internal:80", "169.254.169.254:80").is_err());
        assert!(operator("internal:80", "0.0.0.0:80").is_err());
    }

    #[test]
    fn nobody_dials_the_proxy_itself() {
        for vetting in [Vetting::Guarded, Vetting::Operator] {
            for own in ["127.0.0.1:3128", "[::ffff:127.0.0.1]:3128", "127.0.0.1:3129", "[::1]:3129"]
            {
                let refused = vetted("name:3128", &["8.8.8.8:3128", own], vetting);
                assert_eq!(refused.unwrap_err().code, Code::Loop, "{own}");
            }
        }
    }

    #[test]
    fn a_listener_on_every_address_is_reached_by_every_local_address() {
        let own = SelfAddresses::new(vec![socket("0.0.0.0:3128"), socket("192.0.2.1:3129")]);
        let local = |a: SocketAddr| a.ip() == socket("10.9.8.7:0").ip();
        assert!(own.leads_back(socket("10.9.8.7:3128"), local));
        assert!(!own.leads_back(socket("10.9.8.8:3128"), local));
        assert!(!own.leads_back(socket("10.9.8.7:3130"), local));
        assert!(own.leads_back(socket("192.0.2.1:3129"), local));
        assert!(!own.leads_back(socket("10.9.8.7:3129"), local));
    }

    #[test]
    fn dialling_the_unspecified_address_is_dialling_loopback() {
        let own = SelfAddresses::new(vec![socket("127.0.0.1:3128")]);
        assert!(own.contains(socket("0.0.0.0:3128")));
        assert!(own.contains(socket("[::]:3128")));
        assert!(!own.contains(socket("0.0.0.0:3129")));
    }

    #[test]
    fn families_alternate_and_repetitions_go() {
        let list = |texts: &[&str]| texts.iter().map(|t| socket(t)).collect::<Vec<_>>();
        let mixed = interleave(
            list(&[
                "[2000::1]:1",
                "[2000::2]:1",
                "[2000::1]:1",
                "[2000::3]:1",
                "1.1.1.1:1",
                "1.1.1.2:1",
            ]),
            true,
        );
        let expected =
            list(&["[2000::1]:1", "1.1.1.1:1", "[2000::2]:1", "1.1.1.2:1", "[2000::3]:1"]);
        assert_eq!(mixed, expected);
        assert_eq!(interleave(Vec::new(), true), []);
    }
}
