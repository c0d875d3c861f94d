//! Which addresses may be dialled: pure classification of what an address is, and the holes that the
//! operator opened by name.
//!
//! The tables follow the IANA special-purpose address registries (RFC 6890 and its updates). What is
//! not plainly a global unicast address is refused; forms that carry an IPv4 address inside an IPv6
//! one are refused as such, because what they reach is decided by somebody else's translator.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What makes an address one that the proxy does not dial by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// The machine itself: `127.0.0.0/8`, `::1` (RFC 1122, RFC 4291).
    Loopback,
    /// A private network (RFC 1918).
    Private,
    /// The local link (RFC 3927, RFC 4291).
    LinkLocal,
    /// Shared space behind a carrier's NAT (RFC 6598).
    CarrierNat,
    /// A cloud's metadata or credential service.
    Metadata,
    /// A group of hosts (RFC 5771, RFC 4291).
    Multicast,
    /// `255.255.255.255` (RFC 919).
    Broadcast,
    /// `0.0.0.0` and `::`, which connect to the machine itself.
    Unspecified,
    /// The rest of `0.0.0.0/8` (RFC 791).
    ThisNetwork,
    /// Examples in documents (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// Tests of network devices (RFC 2544, RFC 5180).
    Benchmarking,
    /// Not given out: `240.0.0.0/4` (RFC 1112), and all of IPv6 that is not global unicast.
    Reserved,
    /// A private network of IPv6 (RFC 4193).
    UniqueLocal,
    /// The old private networks of IPv6 (RFC 3879).
    SiteLocal,
    /// A translator's prefix (RFC 6052, RFC 8215).
    Nat64,
    /// IPv6 over IPv4 through relays (RFC 3056, RFC 7526).
    SixToFour,
    /// IPv6 over UDP through relays (RFC 4380).
    Teredo,
    /// IPv4 written as IPv6 without a translator's prefix (RFC 4291 section 2.5.5.1, RFC 2765).
    EmbeddedV4,
    /// IPv6 over IPv4 in one site (RFC 5214).
    Isatap,
    /// Thrown away by routers (RFC 6666, RFC 9780).
    DiscardOnly,
    /// A hash, not a place (RFC 4843, RFC 7343).
    Orchid,
    /// Segment identifiers of IPv6 routing (RFC 9602).
    SegmentRouting,
    /// Anycast and other uses of protocols, not hosts (RFC 6890, RFC 7534, RFC 7450).
    ProtocolAssignment,
}

impl AddressClass {
    /// The class in words, for the agent and for the audit record.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private network",
            Self::LinkLocal => "link-local",
            Self::CarrierNat => "carrier-grade NAT",
            Self::Metadata => "cloud metadata service",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Unspecified => "unspecified",
            Self::ThisNetwork => "this network",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Reserved => "reserved",
            Self::UniqueLocal => "unique local",
            Self::SiteLocal => "site-local",
            Self::Nat64 => "NAT64",
            Self::SixToFour => "6to4",
            Self::Teredo => "Teredo",
            Self::EmbeddedV4 => "IPv4 inside IPv6",
            Self::Isatap => "ISATAP",
            Self::DiscardOnly => "discard-only",
            Self::Orchid => "ORCHID",
            Self::SegmentRouting => "segment routing",
            Self::ProtocolAssignment => "protocol assignment",
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address that is not dialled, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// What it is.
    pub class: AddressClass,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} address", self.class)
    }
}

impl std::error::Error for Forbidden {}

/// Decides which addresses may be dialled.
#[derive(Clone, Debug, Default)]
pub struct AddressGuard {
    allow: Box<[IpNet]>,
}

impl AddressGuard {
    /// A guard with the operator's holes. A hole written in IPv4-mapped form is one of IPv4.
    #[must_use]
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self { allow: allow.into_iter().map(canonical_net).collect() }
    }

    /// Whether `ip` may be dialled. It may when it is an ordinary global address, or when a hole
    /// covers it, with two exceptions:
    ///
    /// - a metadata service hands out the machine's own credentials, so a hole must name that very
    ///   address (`169.254.169.254/32`); a network around it is not meant to open it;
    /// - a hole for a translator's prefix (NAT64, say) opens the addresses behind it only as far as
    ///   the embedded IPv4 address may itself be dialled.
    ///
    /// # Errors
    /// [`Forbidden`] with the class that forbids it.
    pub fn check(&self, ip: IpAddr) -> Result<(), Forbidden> {
        let ip = ip.to_canonical();
        let Some(class) = classify(ip) else {
            return Ok(());
        };
        if self.names(ip) {
            return Ok(());
        }
        if class == AddressClass::Metadata || !self.opens(ip) {
            return Err(Forbidden { class });
        }
        embedded(ip).into_iter().flatten().try_for_each(|v4| self.check(IpAddr::V4(v4)))
    }

    /// Whether a hole is this one address.
    fn names(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.prefix_len() == net.max_prefix_len() && net.addr() == ip)
    }

    /// Whether a hole covers the address.
    fn opens(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&ip))
    }
}

/// Reads `::ffff:10.0.0.0/104` as `10.0.0.0/8`: addresses are compared in canonical form.
fn canonical_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else {
        return net;
    };
    let mapped = v6.addr().to_ipv4_mapped();
    let prefix = v6.prefix_len().checked_sub(96);
    mapped.zip(prefix).and_then(|(v4, len)| Ipv4Net::new(v4, len).ok()).map_or(net, IpNet::V4)
}

/// What makes `ip` special, if anything does. IPv4-mapped IPv6 is IPv4.
#[must_use]
pub fn classify(ip: IpAddr) -> Option<AddressClass> {
    match ip.to_canonical() {
        IpAddr::V4(v4) => V4.iter().find(|(net, _)| net.contains(&v4)).map(|(_, class)| *class),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v6(v6: Ipv6Addr) -> Option<AddressClass> {
    let listed = V6.iter().find(|(net, _)| net.contains(&v6));
    if let Some((_, class)) = listed {
        return Some(*class);
    }
    if is_isatap(v6) {
        return Some(AddressClass::Isatap);
    }
    // IANA gives out global unicast addresses from 2000::/3 alone.
    (!GLOBAL_UNICAST.contains(&v6)).then_some(AddressClass::Reserved)
}

/// The interface identifier `::0:5efe:a.b.c.d` or `::200:5efe:a.b.c.d` (RFC 5214 section 6.1).
fn is_isatap(v6: Ipv6Addr) -> bool {
    let segments = v6.segments();
    segments[4] & 0xfdff == 0 && segments[5] == 0x5efe
}

/// The IPv4 addresses inside an IPv6 one, as a translator or relay would read them.
fn embedded(ip: IpAddr) -> [Option<Ipv4Addr>; 2] {
    let IpAddr::V6(v6) = ip else {
        return [None, None];
    };
    let bits = v6.to_bits();
    let at = |shift: u32| {
        let [.., a, b, c, d] = (bits >> shift).to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    let low = at(0);
    match classify_v6(v6) {
        Some(AddressClass::SixToFour) => [Some(at(80)), None],
        // The server, and the client's address with all bits turned.
        Some(AddressClass::Teredo) => [Some(at(64)), Some(Ipv4Addr::from_bits(!low.to_bits()))],
        Some(AddressClass::Nat64 | AddressClass::EmbeddedV4) => [Some(low), None],
        _ if is_isatap(v6) => [Some(low), None],
        _ => [None, None],
    }
}

const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

const fn v4(a: u8, b: u8, c: u8, d: u8, len: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len)
}

const fn v6(s: [u16; 8], len: u8) -> Ipv6Net {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    Ipv6Net::new_assert(address, len)
}

/// The first match decides, so single addresses stand before the networks around them.
const V4: &[(Ipv4Net, AddressClass)] = &[
    // AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack and most others.
    (v4(169, 254, 169, 254, 32), AddressClass::Metadata),
    // AWS: task roles of ECS, pod identity of EKS; the resolver of a VPC.
    (v4(169, 254, 170, 2, 32), AddressClass::Metadata),
    (v4(169, 254, 170, 23, 32), AddressClass::Metadata),
    (v4(169, 254, 169, 253, 32), AddressClass::Metadata),
    // Scaleway, Tencent.
    (v4(169, 254, 42, 42, 32), AddressClass::Metadata),
    (v4(169, 254, 0, 23, 32), AddressClass::Metadata),
    // Alibaba.
    (v4(100, 100, 100, 200, 32), AddressClass::Metadata),
    // Azure's wire server: a public address that never leaves the host.
    (v4(168, 63, 129, 16, 32), AddressClass::Metadata),
    // Oracle Cloud, classic.
    (v4(192, 0, 0, 192, 32), AddressClass::Metadata),
    (v4(0, 0, 0, 0, 32), AddressClass::Unspecified),
    (v4(0, 0, 0, 0, 8), AddressClass::ThisNetwork),
    (v4(10, 0, 0, 0, 8), AddressClass::Private),
    (v4(100, 64, 0, 0, 10), AddressClass::CarrierNat),
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal),
    (v4(172, 16, 0, 0, 12), AddressClass::Private),
    (v4(192, 0, 0, 0, 24), AddressClass::ProtocolAssignment),
    (v4(192, 0, 2, 0, 24), AddressClass::Documentation),
    // AS112 (RFC 7534, RFC 7535) and AMT (RFC 7450): sinks and relays, not origins.
    (v4(192, 31, 196, 0, 24), AddressClass::ProtocolAssignment),
    (v4(192, 52, 193, 0, 24), AddressClass::ProtocolAssignment),
    (v4(192, 175, 48, 0, 24), AddressClass::ProtocolAssignment),
    (v4(192, 88, 99, 0, 24), AddressClass::SixToFour),
    (v4(192, 168, 0, 0, 16), AddressClass::Private),
    (v4(198, 18, 0, 0, 15), AddressClass::Benchmarking),
    (v4(198, 51, 100, 0, 24), AddressClass::Documentation),
    (v4(203, 0, 113, 0, 24), AddressClass::Documentation),
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast),
    (v4(255, 255, 255, 255, 32), AddressClass::Broadcast),
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),
];

const V6: &[(Ipv6Net, AddressClass)] = &[
    // AWS: instance metadata, pod identity of EKS, the resolver of a VPC.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), AddressClass::Metadata),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128), AddressClass::Metadata),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253], 128), AddressClass::Metadata),
    // Google, Scaleway, Oracle, OpenStack.
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), AddressClass::Metadata),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), AddressClass::Metadata),
    (v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128), AddressClass::Metadata),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128), AddressClass::Metadata),
    (v6([0; 8], 128), AddressClass::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), AddressClass::Loopback),
    // IPv4-compatible, and IPv4-translated (`::ffff:0:a.b.c.d`).
    (v6([0; 8], 96), AddressClass::EmbeddedV4),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), AddressClass::EmbeddedV4),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), AddressClass::Nat64),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), AddressClass::Nat64),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), AddressClass::DiscardOnly),
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), AddressClass::DiscardOnly),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), AddressClass::Teredo),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), AddressClass::Benchmarking),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), AddressClass::Orchid),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), AddressClass::Orchid),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), AddressClass::ProtocolAssignment),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), AddressClass::Documentation),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), AddressClass::SixToFour),
    // AS112 (RFC 7534).
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), AddressClass::ProtocolAssignment),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), AddressClass::Documentation),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), AddressClass::SegmentRouting),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), AddressClass::UniqueLocal),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::LinkLocal),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), AddressClass::SiteLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), AddressClass::Multicast),
];

#[cfg(test)]
mod tests {
    use super::AddressClass as C;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn guard(holes: &[&str]) -> AddressGuard {
        AddressGuard::new(holes.iter().map(|hole| hole.parse().unwrap()).collect())
    }

    fn class(text: &str) -> Option<C> {
        AddressGuard::default().check(ip(text)).err().map(|f| f.class)
    }

    /// First and last address of every block, and the neighbours outside.
    #[test]
    fn ipv4_blocks_end_where_the_registry_says() {
        for (text, expected) in [
            ("0.0.0.0", Some(C::Unspecified)),
            ("0.0.0.1", Some(C::ThisNetwork)),
            ("0.255.255.255", Some(C::ThisNetwork)),
            ("1.0.0.0", None),
            ("9.255.255.255", None),
            ("10.0.0.0", Some(C::Private)),
            ("10.255.255.255", Some(C::Private)),
            ("11.0.0.0", None),
            ("100.63.255.255", None),
            ("100.64.0.0", Some(C::CarrierNat)),
            ("100.100.100.199", Some(C::CarrierNat)),
            ("100.100.100.200", Some(C::Metadata)),
            ("100.127.255.255", Some(C::CarrierNat)),
            ("100.128.0.0", None),
            ("126.255.255.255", None),
            ("127.0.0.0", Some(C::Loopback)),
            ("127.0.0.1", Some(C::Loopback)),
            ("127.255.255.255", Some(C::Loopback)),
            ("128.0.0.0", None),
            ("168.63.129.15", None),
            ("168.63.129.16", Some(C::Metadata)),
            ("169.253.255.255", None),
            ("169.254.0.0", Some(C::LinkLocal)),
            ("169.254.0.23", Some(C::Metadata)),
            ("169.254.42.42", Some(C::Metadata)),
            ("169.254.169.253", Some(C::Metadata)),
            ("169.254.169.254", Some(C::Metadata)),
            ("169.254.169.255", Some(C::LinkLocal)),
            ("169.254.170.2", Some(C::Metadata)),
            ("169.254.170.23", Some(C::Metadata)),
            ("169.254.255.255", Some(C::LinkLocal)),
            ("169.255.0.0", None),
            ("172.15.255.255", None),
            ("172.16.0.0", Some(C::Private)),
            ("172.31.255.255", Some(C::Private)),
            ("172.32.0.0", None),
            ("191.255.255.255", None),
            ("192.0.0.0", Some(C::ProtocolAssignment)),
            ("192.0.0.192", Some(C::Metadata)),
            ("192.0.0.255", Some(C::ProtocolAssignment)),
            ("192.0.1.0", None),
            ("192.0.2.0", Some(C::Documentation)),
            ("192.0.3.0", None),
            ("192.31.196.1", Some(C::ProtocolAssignment)),
            ("192.52.193.1", Some(C::ProtocolAssignment)),
            ("192.88.98.255", None),
            ("192.88.99.0", Some(C::SixToFour)),
            ("192.88.100.0", None),
            ("192.167.255.255", None),
            ("192.168.0.0", Some(C::Private)),
            ("192.168.255.255", Some(C::Private)),
            ("192.169.0.0", None),
            ("192.175.48.1", Some(C::ProtocolAssignment)),
            ("198.17.255.255", None),
            ("198.18.0.0", Some(C::Benchmarking)),
            ("198.19.255.255", Some(C::Benchmarking)),
            ("198.20.0.0", None),
            ("198.51.100.255", Some(C::Documentation)),
            ("203.0.113.0", Some(C::Documentation)),
            ("223.255.255.255", None),
            ("224.0.0.0", Some(C::Multicast)),
            ("239.255.255.255", Some(C::Multicast)),
            ("240.0.0.0", Some(C::Reserved)),
            ("255.255.255.254", Some(C::Reserved)),
            ("255.255.255.255", Some(C::Broadcast)),
            ("8.8.8.8", None),
        ] {
            assert_eq!(class(text), expected, "{text}");
        }
    }

    #[test]
    fn ipv6_blocks_end_where_the_registry_says() {
        for (text, expected) in [
            ("::", Some(C::Unspecified)),
            ("::1", Some(C::Loopback)),
            ("::2", Some(C::EmbeddedV4)),
            ("::8.8.8.8", Some(C::EmbeddedV4)),
            ("::ffff:0:8.8.8.8", Some(C::EmbeddedV4)),
            ("::1:0:0:0", Some(C::Reserved)),
            ("64:ff9b::8.8.8.8", Some(C::Nat64)),
            ("64:ff9b::1:0:0", Some(C::Reserved)),
            ("64:ff9b:1::", Some(C::Nat64)),
            ("64:ff9b:1:ffff:ffff:ffff:ffff:ffff", Some(C::Nat64)),
            ("64:ff9b:2::", Some(C::Reserved)),
            ("100::1", Some(C::DiscardOnly)),
            ("100:0:0:1::", Some(C::DiscardOnly)),
            ("100:0:0:2::", Some(C::Reserved)),
            ("1fff:ffff::", Some(C::Reserved)),
            ("2000::", None),
            ("2001::1", Some(C::Teredo)),
            ("2001:0:ffff::", Some(C::Teredo)),
            ("2001:1::1", Some(C::ProtocolAssignment)),
            ("2001:2::1", Some(C::Benchmarking)),
            ("2001:2:1::", Some(C::ProtocolAssignment)),
            ("2001:10::", Some(C::Orchid)),
            ("2001:20::", Some(C::Orchid)),
            ("2001:2f:ffff::", Some(C::Orchid)),
            ("2001:30::", Some(C::ProtocolAssignment)),
            ("2001:1ff:ffff::", Some(C::ProtocolAssignment)),
            ("2001:200::", None),
            ("2001:db7:ffff::", None),
            ("2001:db8::", Some(C::Documentation)),
            ("2001:db9::", None),
            ("2001:ffff::", None),
            ("2002::", Some(C::SixToFour)),
            ("2002:808:808::1", Some(C::SixToFour)),
            ("2003::", None),
            ("2606:4700::1111", None),
            ("2620:4f:8000::1", Some(C::ProtocolAssignment)),
            ("2620:4f:8001::1", None),
            ("2a00:1450::1", None),
            ("3fff::", Some(C::Documentation)),
            ("3fff:fff:ffff::", Some(C::Documentation)),
            ("3fff:1000::", None),
            ("4000::", Some(C::Reserved)),
            ("5f00::1", Some(C::SegmentRouting)),
            ("5f01::1", Some(C::Reserved)),
            ("fbff::", Some(C::Reserved)),
            ("fc00::", Some(C::UniqueLocal)),
            ("fd00:ec2::254", Some(C::Metadata)),
            ("fd00:ec2::255", Some(C::UniqueLocal)),
            ("fd20:ce::254", Some(C::Metadata)),
            ("fdff:ffff::", Some(C::UniqueLocal)),
            ("fe00::", Some(C::Reserved)),
            ("fe80::1", Some(C::LinkLocal)),
            ("fe80::a9fe:a9fe", Some(C::Metadata)),
            ("febf:ffff::", Some(C::LinkLocal)),
            ("fec0::1", Some(C::SiteLocal)),
            ("feff::", Some(C::SiteLocal)),
            ("ff00::", Some(C::Multicast)),
            ("ff02::1", Some(C::Multicast)),
            ("2606:4700::5efe:8.8.8.8", Some(C::Isatap)),
            ("2606:4700::200:5efe:8.8.8.8", Some(C::Isatap)),
            ("2606:4700::100:5efe:8.8.8.8", None),
        ] {
            assert_eq!(class(text), expected, "{text}");
        }
    }

    #[test]
    fn an_ipv4_mapped_address_is_judged_as_ipv4() {
        assert_eq!(class("::ffff:127.0.0.1"), Some(C::Loopback));
        assert_eq!(class("::ffff:169.254.169.254"), Some(C::Metadata));
        assert_eq!(class("::ffff:8.8.8.8"), None);
        assert_eq!(guard(&["10.0.0.0/8"]).check(ip("::ffff:10.1.2.3")), Ok(()));
        assert_eq!(guard(&["::ffff:10.0.0.0/104"]).check(ip("10.1.2.3")), Ok(()));
    }

    #[test]
    fn a_hole_opens_its_network_and_nothing_beside_it() {
        let guard = guard(&["10.1.0.0/16", "fd12::/32", "127.0.0.1/32"]);
        for open in ["10.1.0.0", "10.1.255.255", "fd12::1", "127.0.0.1"] {
            assert_eq!(guard.check(ip(open)), Ok(()), "{open}");
        }
        for closed in ["10.0.255.255", "10.2.0.0", "fd13::1", "127.0.0.2", "::1"] {
            assert!(guard.check(ip(closed)).is_err(), "{closed}");
        }
    }

    #[test]
    fn a_metadata_service_is_opened_only_by_its_own_address() {
        let wide = guard(&["169.254.0.0/16", "0.0.0.0/0", "::/0", "fd00:ec2::/64"]);
        for closed in ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"] {
            let forbidden = Err(Forbidden { class: C::Metadata });
            assert_eq!(wide.check(ip(closed)), forbidden, "{closed}");
        }
        assert_eq!(wide.check(ip("169.254.1.1")), Ok(()));
        let named = guard(&["169.254.169.254/32", "fd00:ec2::254/128"]);
        assert_eq!(named.check(ip("169.254.169.254")), Ok(()));
        assert_eq!(named.check(ip("::ffff:169.254.169.254")), Ok(()));
        assert_eq!(named.check(ip("fd00:ec2::254")), Ok(()));
    }

    #[test]
    fn a_hole_for_a_translator_does_not_open_what_is_closed_behind_it() {
        let guard = guard(&[
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "2002::/16",
            "2001::/32",
            "::/96",
            "2606:4700::/32",
        ]);
        for open in [
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::8.8.8.8",
            "2002:808:808::1",
            // Server 8.8.8.8, client 8.8.4.4.
            "2001:0:808:808:0:0:f7f7:fbfb",
            "::8.8.8.8",
            "2606:4700::5efe:8.8.8.8",
        ] {
            assert_eq!(guard.check(ip(open)), Ok(()), "{open}");
        }
        for (closed, class) in [
            ("64:ff9b::10.0.0.1", C::Private),
            ("64:ff9b::169.254.169.254", C::Metadata),
            ("64:ff9b:1::127.0.0.1", C::Loopback),
            ("2002:7f00:1::1", C::Loopback),
            // Client 127.0.0.1, then server 10.0.0.1.
            ("2001:0:808:808:0:0:80ff:fffe", C::Loopback),
            ("2001:0:a00:1:0:0:f7f7:fbfb", C::Private),
            ("::10.0.0.1", C::Private),
            ("2606:4700::5efe:10.0.0.1", C::Private),
        ] {
            assert_eq!(guard.check(ip(closed)), Err(Forbidden { class }), "{closed}");
        }
    }

    #[test]
    fn naming_an_embedding_address_itself_opens_it() {
        let guard = guard(&["64:ff9b::a00:1/128"]);
        assert_eq!(guard.check(ip("64:ff9b::10.0.0.1")), Ok(()));
        assert!(guard.check(ip("64:ff9b::10.0.0.2")).is_err());
    }
}
