//! Who reaches whom.

use net::{Protocol, Publication};

use crate::lab::{
    HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, call, call_from, call_udp, is_refused, on_a_host, publish,
    serve, serve_udp, within,
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

#[test]
fn without_icc_members_do_not_reach_each_other() {
    on_a_host(|| {
        let mut lab = Lab::new();
        lab.segments[0].icc = false;
        lab.replace(&[]);
        let one = lab.container("a", &["10.1.0.2/24"]);
        let two = lab.container("a", &["10.1.0.3/24"]);
        serve(&two.namespace, "0.0.0.0:80");
        // frames between ports of a bridge pass the table where the kernel shows them to it
        let shown = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if shown.is_ok_and(|t| t.trim() == "1") {
            assert!(is_refused(&one.namespace, "10.1.0.3:80"));
        }
        assert!(call("10.1.0.3:80").ends_with("10.1.0.1"));
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
