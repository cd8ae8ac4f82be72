//! Who reaches whom.

use net::{Above, Endpoint, Joint, MacvlanMode, Protocol, Publication, Ways, host};

use crate::lab::{
    HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, call, call_from, call_udp, endpoint, is_refused,
    is_refused_here, on_a_host, publish, serve, serve_udp, within,
};

#[test]
fn members_reach_each_other_and_the_world_and_the_world_does_not_reach_them() {
    on_a_host(|| {
        let lab = Lab::new();
        let (one, two) = (
            lab.container("a", &["10.1.0.2/24", "fd00:1:1::2/64"]),
            lab.container("a", &["10.1.0.3/24", "fd00:1:1::3/64"]),
        );
        serve(&two.namespace, "[::]:80");
        serve(&lab.outside, "[::]:80");
        assert!(call_from(&one.namespace, "10.1.0.3:80").ends_with("10.1.0.2"));
        assert_eq!(call_from(&one.namespace, "[fd00:1:1::3]:80"), "fd00:1:1::2");
        assert!(call("10.1.0.3:80").ends_with("10.1.0.1"));
        // out: with the host's address
        let out = format!("{OUTSIDE}:80");
        assert!(call_from(&one.namespace, &out).ends_with(HOST));
        assert_eq!(
            call_from(&one.namespace, &format!("[{OUTSIDE6}]:80")),
            HOST6
        );
        // in, by a route of its own: dropped
        assert!(is_refused(&lab.outside, "10.1.0.3:80"));
    });
}

/// Between networks, from both sides, and of an internal one with everything.
#[test]
fn networks_are_isolated_from_each_other() {
    on_a_host(|| {
        let lab = Lab::new();
        let a = lab.container("a", &["10.1.0.2/24"]);
        let b = lab.container("b", &["10.2.0.2/24"]);
        let (i, j) = (
            lab.container("i", &["10.3.0.2/24"]),
            lab.container("i", &["10.3.0.3/24"]),
        );
        for c in [&a, &b, &i] {
            serve(&c.namespace, "0.0.0.0:80");
        }
        serve(&lab.outside, "0.0.0.0:80");
        for (from, to) in [
            (&a, "10.2.0.2:80"),
            (&b, "10.1.0.2:80"),
            (&a, "10.3.0.2:80"),
            (&i, "10.1.0.2:80"),
        ] {
            assert!(is_refused(&from.namespace, to), "{to}");
        }
        assert!(is_refused(&i.namespace, &format!("{OUTSIDE}:80")));
        assert_eq!(call_from(&j.namespace, "10.3.0.2:80"), "10.3.0.3");
        // a port that was published is open to all, also to other networks
        lab.replace(&[publish("0.0.0.0:8080", "10.2.0.2:80")]);
        assert_eq!(call_from(&a.namespace, &format!("{HOST}:8080")), "10.1.0.2");
        assert!(is_refused(&i.namespace, &format!("{HOST}:8080")));
    });
}

/// Whether or not the kernel shows frames between a bridge's ports to the table.
#[test]
fn without_icc_members_do_not_reach_each_other() {
    on_a_host(|| {
        let mut lab = Lab::new();
        lab.segments[0].icc = false;
        lab.replace(&[]);
        drop(std::fs::write(
            "/proc/sys/net/bridge/bridge-nf-call-iptables",
            "0",
        ));
        let alone = |address: &str| {
            let mut endpoint = endpoint("a", &[address]);
            if let Joint::Port { isolated, .. } = &mut endpoint.joint {
                *isolated = true;
            }
            lab.joined(endpoint)
        };
        let (one, two) = (alone("10.1.0.2/24"), alone("10.1.0.3/24"));
        serve(&two.namespace, "0.0.0.0:80");
        assert!(is_refused(&one.namespace, "10.1.0.3:80"));
        assert!(call("10.1.0.3:80").ends_with("10.1.0.1"));
        // what is published is for all
        lab.replace(&[publish("0.0.0.0:8080", "10.1.0.3:80")]);
        call_from(&one.namespace, "10.1.0.1:8080");
    });
}

/// Gateway mode routed: members have their own addresses outside, and what they publish is open.
#[test]
fn a_routed_network_is_reached_at_what_it_publishes() {
    on_a_host(|| {
        let mut lab = Lab::new();
        let routed = Ways {
            routed: true,
            ..Ways::default()
        };
        (lab.segments[0].four, lab.segments[0].six) = (routed, routed);
        let one = lab.container("a", &["10.1.0.2/24", "fd00:1:1::2/64"]);
        let direct = |to: &str| Publication {
            host: [0; 4].into(),
            ..publish("0.0.0.0:0", to)
        };
        lab.replace(&[direct("10.1.0.2:80"), direct("[fd00:1:1::2]:80")]);
        for port in [80, 81] {
            serve(&one.namespace, &format!("[::]:{port}"));
        }
        serve(&lab.outside, "[::]:80");
        assert!(call_from(&lab.outside, "10.1.0.2:80").ends_with(OUTSIDE));
        assert_eq!(call_from(&lab.outside, "[fd00:1:1::2]:80"), OUTSIDE6);
        for other in ["10.1.0.2:81", "[fd00:1:1::2]:81"] {
            assert!(is_refused(&lab.outside, other), "{other}");
        }
        // out: with its own address
        assert!(call_from(&one.namespace, &format!("{OUTSIDE}:80")).ends_with("10.1.0.2"));
        // from another network: only what is published
        let other = lab.container("b", &["10.2.0.2/24"]);
        call_from(&other.namespace, "10.1.0.2:80");
        assert!(is_refused(&other.namespace, "10.1.0.2:81"));
    });
}

/// Gateway mode nat-unprotected, and a source address that is chosen.
#[test]
fn an_open_network_and_a_source_of_its_own() {
    on_a_host(|| {
        let mut lab = Lab::new();
        lab.segments[0].four = Ways {
            masquerade: true,
            source: Some("10.2.0.1".parse().unwrap()),
            routed: false,
            open: true,
        };
        lab.replace(&[]);
        let one = lab.container("a", &["10.1.0.2/24"]);
        serve(&one.namespace, "0.0.0.0:81");
        serve(&lab.outside, "0.0.0.0:80");
        assert_eq!(call_from(&lab.outside, "10.1.0.2:81"), OUTSIDE);
        assert_eq!(
            call_from(&one.namespace, &format!("{OUTSIDE}:80")),
            "10.2.0.1"
        );
    });
}

/// Members above an interface of the host are neighbours of what is on its wire.
#[test]
fn members_above_an_interface_of_the_host() {
    on_a_host(|| {
        let lab = Lab::new();
        let above = |mode: MacvlanMode, address: &str| {
            let endpoint = Endpoint {
                joint: Joint::Above {
                    parent: "lan".to_owned(),
                    how: Above::Macvlan(mode),
                },
                ..endpoint("lan", &[address])
            };
            lab.joined(endpoint)
        };
        let one = above(MacvlanMode::Bridge, "198.51.100.11/24");
        let two = above(MacvlanMode::Bridge, "198.51.100.12/24");
        serve(&one.namespace, "0.0.0.0:80");
        assert_eq!(call_from(&lab.outside, "198.51.100.11:80"), OUTSIDE);
        assert_eq!(
            call_from(&two.namespace, "198.51.100.11:80"),
            "198.51.100.12"
        );
        // as Linux has it: not from the host itself
        assert!(is_refused_here("198.51.100.11:80"));
        let (three, four) = (
            above(MacvlanMode::Private, "198.51.100.13/24"),
            above(MacvlanMode::Private, "198.51.100.14/24"),
        );
        serve(&three.namespace, "0.0.0.0:80");
        assert_eq!(call_from(&lab.outside, "198.51.100.13:80"), OUTSIDE);
        assert!(is_refused(&four.namespace, "198.51.100.13:80"));
        host::disconnect(&one.namespace, &one.endpoints[0]).unwrap();
        host::disconnect(&one.namespace, &one.endpoints[0]).unwrap();
        assert!(is_refused(&two.namespace, "198.51.100.11:80"));
    });
}

/// From outside with its own address, from the host by its address and by loopback, from another
/// member, and from itself.
#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_a_host(|| {
        let lab = Lab::new();
        let one = lab.container("a", &["10.1.0.2/24", "fd00:1:1::2/64"]);
        let two = lab.container("a", &["10.1.0.3/24", "fd00:1:1::3/64"]);
        lab.replace(&[
            publish("0.0.0.0:8080", "10.1.0.2:80"),
            publish("[::]:8080", "[fd00:1:1::2]:80"),
        ]);
        serve(&one.namespace, "0.0.0.0:80");
        serve(&one.namespace, "[fd00:1:1::2]:80");
        let (at, at6) = (format!("{HOST}:8080"), format!("[{HOST6}]:8080"));
        // the source is kept
        assert_eq!(call_from(&lab.outside, &at), OUTSIDE);
        assert_eq!(call_from(&lab.outside, &at6), OUTSIDE6);
        assert_eq!(call(&at), HOST);
        assert_eq!(call(&at6), HOST6);
        assert_eq!(call("127.0.0.1:8080"), "10.1.0.1");
        assert_eq!(call("127.1.2.3:8080"), "10.1.0.1");
        assert_eq!(call("10.1.0.1:8080"), "10.1.0.1");
        for (from, to) in [(&two, &at), (&one, &at), (&two, &at6), (&one, &at6)] {
            call_from(&from.namespace, to);
        }
        // a container's own loopback is its own
        assert!(is_refused(&two.namespace, "127.0.0.1:8080"));
    });
}

#[test]
fn udp_and_one_address_of_the_host() {
    on_a_host(|| {
        let lab = Lab::new();
        let one = lab.container("a", &["10.1.0.2/24"]);
        serve_udp(&one.namespace, "0.0.0.0:53");
        serve(&one.namespace, "0.0.0.0:80");
        let udp = Publication {
            protocol: Protocol::Udp,
            ..publish("0.0.0.0:5353", "10.1.0.2:53")
        };
        lab.replace(&[udp, publish("127.0.0.1:8081", "10.1.0.2:80")]);
        assert_eq!(
            within(&lab.outside, || call_udp(&format!("{HOST}:5353"))),
            OUTSIDE
        );
        assert_eq!(call_udp("127.0.0.1:5353"), "10.1.0.1");
        assert_eq!(call("127.0.0.1:8081"), "10.1.0.1");
        assert!(is_refused(&lab.outside, &format!("{HOST}:8081")));
    });
}

/// route_localnet lets 127.0.0.1's ports leave by a bridge; nobody comes in that way.
#[test]
fn the_hosts_loopback_is_out_of_reach_of_containers() {
    on_a_host(|| {
        let lab = Lab::new();
        let one = lab.container("a", &["10.1.0.2/24"]);
        let listener = std::net::TcpListener::bind("127.0.0.1:7777").unwrap();
        listener.set_nonblocking(true).unwrap();
        // a container with the right to may send what it wants: here by a route to 127.0.0.0/8
        within(&one.namespace, || {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            let socket = std::net::UdpSocket::bind("10.1.0.2:0").unwrap();
            drop(socket);
        });
        assert!(is_refused(&one.namespace, "127.0.0.1:7777"));
        assert!(listener.accept().is_err());
    });
}

/// FAILURES "Published port bypasses the host's firewall": what the host's own firewall drops on its
/// forward path stays dropped.
#[test]
fn what_the_hosts_firewall_drops_stays_dropped() {
    on_a_host(|| {
        let lab = Lab::new();
        let one = lab.container("a", &["10.1.0.2/24"]);
        serve(&one.namespace, "0.0.0.0:80");
        lab.replace(&[publish("0.0.0.0:8080", "10.1.0.2:80")]);
        let at = format!("{HOST}:8080");
        assert_eq!(call_from(&lab.outside, &at), OUTSIDE);
        crate::table::nft(
            "add table inet firewall; add chain inet firewall forward { type filter hook forward priority 10; policy accept; }; add rule inet firewall forward meta l4proto tcp ct original proto-dst 8080 drop",
        );
        assert!(is_refused(&lab.outside, &at));
    });
}

/// A host that did not forward before is no router for others now.
#[test]
fn a_host_that_was_no_router_does_not_become_one() {
    on_a_host(|| {
        let lab = Lab::new();
        assert!(lab.table.only_ours);
        let other = net::Instance::new("other");
        net::host::put_bridges(&[crate::lab::bridge(&other, "lan2", &["203.0.113.1/24"])]).unwrap();
        let far = net::Namespace::create().unwrap();
        net::host::connect(
            &other,
            &far,
            &[crate::lab::endpoint("lan2", &["203.0.113.2/24"])],
        )
        .unwrap();
        serve(&far, "0.0.0.0:80");
        assert!(call("203.0.113.2:80").ends_with("203.0.113.1"));
        assert!(is_refused(&lab.outside, "203.0.113.2:80"));
    });
}
