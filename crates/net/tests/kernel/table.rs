//! The table and the links as objects: what is there, what is left.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use net::{Publication, Segment, Table, Watch, host};

use crate::lab::{Lab, connect_again, links, on_a_host, publish};

/// Runs the `nft` program in this namespace: what an administrator would do.
pub(crate) fn nft(commands: &str) {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test runs the programs it tests with"
    )]
    let done = std::process::Command::new("nft").arg(commands).output();
    let done = done.expect("nft: install the package nftables");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn listing(table: &Table) -> String {
    let elements = table.observe().unwrap().expect("the table is there");
    let lines: Vec<String> = elements.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// What the kernel has is what was planned, to the byte.
#[test]
fn the_kernel_has_what_was_planned() {
    on_a_host(|| {
        let lab = Lab::new();
        let published = [
            publish("0.0.0.0:8080", "10.1.0.2:80"),
            publish("127.0.0.1:443", "10.1.0.2:4443"),
            publish("[::]:8080", "[fd00:1:1::2]:80"),
            publish("[fd00::9]:53", "[fd00:1:1::2]:5353"),
        ];
        lab.replace(&published);
        let mut wanted: Vec<_> = lab.segments.iter().flat_map(Segment::elements).collect();
        wanted.extend(published.iter().flat_map(Publication::elements));
        wanted.sort();
        wanted.dedup();
        assert_eq!(lab.table.observe().unwrap().unwrap(), wanted);
        insta::assert_snapshot!(listing(&lab.table));
    });
}

#[test]
fn elements_come_and_go_and_a_second_meaning_is_refused() {
    on_a_host(|| {
        let lab = Lab::new();
        let before = listing(&lab.table);
        let one = publish("0.0.0.0:8080", "10.1.0.2:80").elements();
        lab.table.add(&one).unwrap();
        assert_ne!(listing(&lab.table), before);
        // the same again is no change
        lab.table.add(&one).unwrap();
        let other = publish("0.0.0.0:8080", "10.1.0.3:80").elements();
        let refused = lab.table.add(&other).unwrap_err();
        assert_eq!(
            refused.errno(),
            rustix::io::Errno::EXIST.raw_os_error(),
            "{refused}"
        );
        lab.table.remove(&one).unwrap();
        assert_eq!(listing(&lab.table), before);
        assert!(lab.table.remove(&one).is_err());
        assert_eq!(listing(&lab.table), before);
    });
}

/// FAILURES "Slow parallel start": a set of ports is one transaction, whatever its size.
#[test]
fn five_thousand_ports_in_one_transaction() {
    on_a_host(|| {
        let lab = Lab::new();
        let all: Vec<_> = (1..=5000u16)
            .map(|n| publish(&format!("0.0.0.0:{n}"), &format!("10.1.0.2:{n}")))
            .collect();
        lab.replace(&all);
        let have = lab.table.observe().unwrap().unwrap();
        assert_eq!(
            have.len(),
            5000 + 1
                + lab
                    .segments
                    .iter()
                    .map(|s| s.elements().len())
                    .sum::<usize>()
        );
    });
}

#[test]
fn instances_do_not_touch_each_other() {
    on_a_host(|| {
        let lab = Lab::new();
        let second = net::Instance::new("second");
        let table = Table::new(&second.table(), false);
        table.replace(&[]).unwrap();
        host::put_bridges(&[crate::lab::bridge(&second, "c", &["10.9.0.1/24"])]).unwrap();
        let before = listing(&lab.table);
        // nor does one take what the other has made
        let foreign = host::put_bridges(&[crate::lab::bridge(&second, "a", &["10.1.0.1/24"])]);
        assert!(
            matches!(foreign, Err(net::HostError::Foreign { .. })),
            "{foreign:?}"
        );
        assert_eq!(
            host::remove_strays(&second, &BTreeSet::new()).unwrap(),
            ["c"]
        );
        table.delete().unwrap();
        assert_eq!(listing(&lab.table), before);
        assert!(links().contains(&"a".to_owned()));
        assert_eq!(Table::names().unwrap(), [lab.instance.table()]);
    });
}

/// FAILURES "Leaked netns, addresses, watchers": a pair of links goes with its namespace.
#[test]
fn links_go_with_their_namespace_and_strays_are_found() {
    on_a_host(|| {
        let lab = Lab::new();
        let before = links();
        let one = lab.container("a", &["10.1.0.2/24"]);
        assert_eq!(links().len(), before.len() + 1);
        // a connect that fails leaves nothing: the name is taken
        assert!(connect_again(&lab, &one).is_err());
        drop(one);
        let until = Instant::now() + Duration::from_secs(10);
        while links() != before {
            assert!(Instant::now() < until, "{:?}", links());
            std::thread::sleep(Duration::from_millis(10));
        }
        let wanted = ["a", "b"].map(str::to_owned).into();
        assert_eq!(host::remove_strays(&lab.instance, &wanted).unwrap(), ["i"]);
        assert!(
            host::remove_strays(&lab.instance, &wanted)
                .unwrap()
                .is_empty()
        );
        host::remove_link("i").unwrap();
    });
}

#[test]
fn putting_a_bridge_again_gives_it_the_addresses_it_should_have() {
    on_a_host(|| {
        let lab = Lab::new();
        let socket = net::socket::Socket::route().unwrap();
        host::put_bridges(&[crate::lab::bridge(&lab.instance, "b", &["10.7.0.1/24"])]).unwrap();
        let index = socket.link("b").unwrap().unwrap().index;
        let all = socket.addresses().unwrap();
        let own: Vec<String> = all
            .iter()
            .filter(|(of, a)| *of == index && a.address.is_ipv4())
            .map(|(_, a)| a.to_string())
            .collect();
        assert_eq!(own, ["10.7.0.1/24"]);
        let routed = socket.routed(&[index]).unwrap();
        assert!(
            routed.contains(&"10.1.0.0/24".parse().unwrap()),
            "{routed:?}"
        );
        assert!(
            !routed.contains(&"10.7.0.0/24".parse().unwrap()),
            "{routed:?}"
        );
    });
}

/// FAILURES "Firewall reload wipes rules": it is noticed, with who did it; what we do is not.
#[test]
fn a_flush_is_told_and_our_own_changes_are_not() {
    on_a_host(|| {
        let lab = Lab::new();
        let mut watch = Watch::open(&lab.instance.table()).unwrap();
        lab.replace(&[publish("0.0.0.0:1", "10.1.0.2:1")]);
        lab.table
            .remove(&publish("0.0.0.0:1", "10.1.0.2:1").elements())
            .unwrap();
        assert_eq!(watch.read().unwrap(), None);
        nft("add table inet somebodys; delete table inet somebodys");
        assert_eq!(watch.read().unwrap(), None);
        nft("flush ruleset");
        let damage = watch.read().unwrap().expect("damage");
        assert!(damage.by.starts_with("nft (process "), "{damage:?}");
        assert_eq!(lab.table.observe().unwrap(), None);
        lab.replace(&[]);
        nft(&format!("flush table inet {}", lab.instance.table()));
        assert!(watch.read().unwrap().is_some());
        let all: Vec<_> = lab.segments.iter().flat_map(Segment::elements).collect();
        assert!(!lab.table.is_intact(&all).unwrap());
        lab.replace(&[]);
        assert!(lab.table.is_intact(&all).unwrap());
        assert!(!lab.table.is_intact(&all[1..]).unwrap());
    });
}
