//! A host in a network namespace, a neighbour outside, containers.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use net::host::{self, Endpoint, HostError, Joint};
use net::netns::{self, NamespaceError};
use net::{Bridge, Instance, Mac, Namespace, Prefix, Publication, Segment, Table, Ways};

pub(crate) const OUTSIDE: &str = "198.51.100.2";
pub(crate) const HOST: &str = "198.51.100.1";
pub(crate) const OUTSIDE6: &str = "2001:db8:1::2";
pub(crate) const HOST6: &str = "2001:db8:1::1";

pub(crate) struct Container {
    pub(crate) namespace: Namespace,
    pub(crate) endpoints: Vec<Endpoint>,
}

pub(crate) struct Lab {
    pub(crate) instance: Instance,
    pub(crate) table: Table,
    pub(crate) outside: Namespace,
    pub(crate) segments: Vec<Segment>,
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Runs a test on a host of its own.
pub(crate) fn on_a_host(test: impl FnOnce() + Send) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test needs root: network namespaces"
    );
    let host = Namespace::create().expect("a namespace");
    netns::inside(host.as_fd(), || {
        let up = host::connect(&Instance::new("lo"), &host, &[]);
        up.expect("loopback");
        // whatever this machine has
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a setting of the namespace");
        test();
        Ok::<(), NamespaceError>(())
    })
    .expect("the namespace can be entered");
}

pub(crate) fn bridge(instance: &Instance, name: &str, addresses: &[&str]) -> Bridge {
    Bridge {
        name: name.to_owned(),
        mac: Mac::derived(name),
        group: instance.group(),
        mtu: 0,
        addresses: addresses.iter().map(|a| prefix(a)).collect(),
    }
}

pub(crate) fn endpoint(bridge: &str, addresses: &[&str]) -> Endpoint {
    let gateway = |p: Prefix| {
        let text = match p.address {
            IpAddr::V4(a) => {
                let [a, b, c, _] = a.octets();
                format!("{a}.{b}.{c}.1")
            }
            IpAddr::V6(a) => format!(
                "{:x}:{:x}:{:x}::1",
                a.segments()[0],
                a.segments()[1],
                a.segments()[2]
            ),
        };
        text.parse().unwrap()
    };
    let addresses: Vec<Prefix> = addresses.iter().map(|a| prefix(a)).collect();
    Endpoint {
        joint: Joint::Port {
            bridge: bridge.to_owned(),
            host: Instance::new("lab").veth(bridge, &addresses[0].to_string(), 0),
            isolated: false,
        },
        name: "eth0".to_owned(),
        mac: Some(Mac::derived(&addresses[0].to_string())),
        mtu: 0,
        sysctls: Vec::new(),
        gateways: addresses.iter().map(|a| gateway(*a)).collect(),
        addresses,
    }
}

pub(crate) fn segment(bridge: &str) -> Segment {
    Segment {
        bridge: bridge.to_owned(),
        internal: false,
        icc: true,
        four: NAT,
        six: NAT,
    }
}

const NAT: Ways = Ways {
    masquerade: true,
    source: None,
    routed: false,
    open: false,
};

impl Lab {
    /// With the bridges `a` (10.1.0.0/24, fd00:1:1::/64), `b` (10.2.0.0/24) and the internal `i`
    /// (10.3.0.0/24), and a neighbour on the wire `lan`.
    pub(crate) fn new() -> Self {
        let instance = Instance::new("lab");
        let wire = Instance::new("wire");
        let lan = [format!("{HOST}/24"), format!("{HOST6}/64")];
        let lan = lan.each_ref().map(String::as_str);
        host::put_bridges(&[bridge(&wire, "lan", &lan)]).unwrap();
        let outside = Namespace::create().unwrap();
        let own = [format!("{OUTSIDE}/24"), format!("{OUTSIDE6}/64")];
        let own = own.each_ref().map(String::as_str);
        host::connect(&wire, &outside, &[endpoint("lan", &own)]).unwrap();
        let only_ours = host::forward().unwrap();
        host::forward6().unwrap();
        host::put_bridges(&[
            bridge(&instance, "a", &["10.1.0.1/24", "fd00:1:1::1/64"]),
            bridge(&instance, "b", &["10.2.0.1/24"]),
            bridge(&instance, "i", &["10.3.0.1/24"]),
        ])
        .unwrap();
        let internal = Segment {
            internal: true,
            four: Ways::default(),
            six: Ways::default(),
            ..segment("i")
        };
        let lab = Self {
            table: Table::new(&instance.table(), only_ours),
            instance,
            outside,
            segments: vec![segment("a"), segment("b"), internal],
        };
        lab.replace(&[]);
        lab
    }

    pub(crate) fn replace(&self, published: &[Publication]) {
        let mut all: Vec<_> = self.segments.iter().flat_map(Segment::elements).collect();
        all.extend(published.iter().flat_map(Publication::elements));
        self.table.replace(&all).unwrap();
    }

    pub(crate) fn container(&self, bridge: &str, addresses: &[&str]) -> Container {
        self.joined(endpoint(bridge, addresses))
    }

    pub(crate) fn joined(&self, endpoint: Endpoint) -> Container {
        let namespace = Namespace::create().unwrap();
        let endpoints = vec![endpoint];
        host::connect(&self.instance, &namespace, &endpoints).unwrap();
        Container {
            namespace,
            endpoints,
        }
    }
}

pub(crate) fn within<T: Send>(namespace: &Namespace, work: impl FnOnce() -> T + Send) -> T {
    netns::inside(namespace.as_fd(), || Ok::<T, NamespaceError>(work())).unwrap()
}

/// Answers each connection with the address it came from, as long as the test runs.
pub(crate) fn serve(namespace: &Namespace, address: &str) {
    let listener = within(namespace, || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().map(|a| a.ip().to_string());
            drop(stream.write_all(peer.unwrap_or_default().as_bytes()));
        }
    });
}

pub(crate) fn serve_udp(namespace: &Namespace, address: &str) {
    let socket = within(namespace, || UdpSocket::bind(address).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(peer.ip().to_string().as_bytes(), peer));
        }
    });
}

const PATIENCE: Duration = Duration::from_secs(5);
/// Of what must not get through: a packet that is dropped is answered by nobody.
const REFUSAL: Duration = Duration::from_millis(300);

fn ask(to: SocketAddr, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Who the server says the caller is; here: in the host's namespace.
pub(crate) fn call(to: &str) -> String {
    ask(to.parse().unwrap(), PATIENCE).unwrap_or_else(|| panic!("nobody answers at {to}"))
}

pub(crate) fn call_from(namespace: &Namespace, to: &str) -> String {
    within(namespace, || call(to))
}

pub(crate) fn is_refused_here(to: &str) -> bool {
    ask(to.parse().unwrap(), REFUSAL).is_none()
}

pub(crate) fn is_refused(namespace: &Namespace, to: &str) -> bool {
    within(namespace, || is_refused_here(to))
}

pub(crate) fn call_udp(to: &str) -> String {
    let to: SocketAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"x", to).unwrap();
    let mut buffer = [0; 64];
    let (n, _) = socket.recv_from(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

pub(crate) fn publish(host: &str, to: &str) -> Publication {
    let host: SocketAddr = host.parse().unwrap();
    Publication {
        protocol: net::Protocol::Tcp,
        host: host.ip(),
        port: host.port(),
        to: to.parse().unwrap(),
    }
}

pub(crate) fn links() -> Vec<String> {
    let links = net::socket::Socket::route().unwrap().links().unwrap();
    links.into_iter().map(|l| l.name).collect()
}

pub(crate) fn connect_again(lab: &Lab, container: &Container) -> Result<(), HostError> {
    host::connect(&lab.instance, &container.namespace, &container.endpoints)
}
