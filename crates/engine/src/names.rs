//! Ids and names.

use crate::error::Error;

const ADJECTIVES: [&str; 48] = [
    "able", "amber", "apt", "bold", "brave", "brisk", "calm", "candid", "clear", "crisp", "dapper",
    "deft", "eager", "early", "fair", "firm", "fleet", "fond", "frank", "fresh", "glad", "golden",
    "hardy", "honest", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry",
    "neat", "noble", "patient", "plucky", "proud", "quick", "quiet", "ready", "sober", "steady",
    "stout", "sunny", "swift", "tidy", "trim", "witty",
];

const NOUNS: [&str; 64] = [
    "anchor", "ballast", "barge", "beacon", "berth", "binnacle", "boom", "bosun", "bow", "brig",
    "bulwark", "buoy", "cabin", "canal", "capstan", "clipper", "compass", "crane", "cutter",
    "deck", "dinghy", "dock", "ferry", "fjord", "frigate", "galley", "gangway", "halyard",
    "harbour", "hatch", "hawser", "helm", "hold", "hull", "jetty", "keel", "ketch", "lagoon",
    "lantern", "lighter", "locker", "lugger", "mast", "mooring", "oar", "packet", "pier", "pilot",
    "pinnace", "port", "quay", "rigging", "rudder", "schooner", "sextant", "sloop", "spar",
    "stern", "tender", "tiller", "trawler", "tug", "wharf", "yawl",
];

/// 64 hex digits. The first twelve are never all decimal: they become a host name, and a tool that
/// takes that for a number goes wrong.
pub(crate) fn new_id() -> String {
    loop {
        let mut bytes = [0_u8; 32];
        fill_random(&mut bytes);
        let id = hex::encode(bytes);
        if !id[..12].bytes().all(|b| b.is_ascii_digit()) {
            return id;
        }
    }
}

fn fill_random(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .expect("getrandom with a valid buffer only fails before Linux 3.17");
    }
}

/// A name for a container whose user gave none. `attempt` above 0 adds a number.
pub(crate) fn random_name(attempt: u32) -> String {
    let mut bytes = [0_u8; 4];
    fill_random(&mut bytes);
    let adjective = ADJECTIVES[usize::from(bytes[0]) % ADJECTIVES.len()];
    let noun = NOUNS[usize::from(bytes[1]) % NOUNS.len()];
    if attempt == 0 {
        format!("{adjective}_{noun}")
    } else {
        let number = u16::from_le_bytes([bytes[2], bytes[3]]);
        format!("{adjective}_{noun}{number}")
    }
}

/// Docker's rule for names of containers and volumes.
pub(crate) fn check(what: &str, name: &str) -> Result<(), Error> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let bytes = name.as_bytes();
    if bytes.len() >= 2
        && bytes.len() <= 128
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| good(*b))
    {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Invalid {what} name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 2 to 128 of them"
    )))
}

/// Networks may be called what people like, as in dockerd.
pub(crate) fn check_network(name: &str) -> Result<(), Error> {
    if !name.trim().is_empty() && name.len() <= 128 && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Invalid network name ({name:?}): it must not be blank, longer than 128 bytes, or hold control characters"
    )))
}

/// A signal by name (`TERM`, `SIGTERM`, `RTMIN+3`) or number.
pub(crate) fn signal(text: &str) -> Result<i32, Error> {
    let wrong = || Error::invalid(format!("Invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64)
            .contains(&number)
            .then_some(number)
            .ok_or_else(wrong);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = SIGNALS.iter().position(|s| *s == name) {
        return i32::try_from(at + 1).map_err(|_| wrong());
    }
    // as libc numbers them: two of the kernel's real-time signals are its own
    let (from, sign, rest) = match name {
        "IOT" => return Ok(6),
        "CLD" => return Ok(17),
        "POLL" => return Ok(29),
        n if n.starts_with("RTMIN") => (34, 1, &n[5..]),
        n if n.starts_with("RTMAX") => (64, -1, &n[5..]),
        _ => return Err(wrong()),
    };
    let by = match rest.as_bytes().first() {
        None => 0,
        Some(b'+') if sign > 0 => rest[1..].parse::<i32>().map_err(|_| wrong())?,
        Some(b'-') if sign < 0 => rest[1..].parse::<i32>().map_err(|_| wrong())?,
        Some(_) => return Err(wrong()),
    };
    let number = from + sign * by;
    if by >= 0 && (34..=64).contains(&number) {
        Ok(number)
    } else {
        Err(wrong())
    }
}

/// By number from 1. source: signal(7), x86 and ARM.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal("SIGTERM").unwrap(), 15);
        assert_eq!(signal("kill").unwrap(), 9);
        assert_eq!(signal("9").unwrap(), 9);
        assert_eq!(signal("SYS").unwrap(), 31);
        assert_eq!(signal("SIGRTMIN+3").unwrap(), 37);
        assert_eq!(signal("RTMAX-1").unwrap(), 63);
        for wrong in [
            "", "0", "65", "SIGNOT", "RTMIN-1", "RTMIN+40", "RTMAX--1", "-9",
        ] {
            assert!(signal(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names() {
        assert!(check("container", "web-1.a_b").is_ok());
        for wrong in [
            "",
            "a",
            "-web",
            "a/b",
            "a b",
            "\u{e9}t\u{e9}",
            "..",
            &"x".repeat(129),
        ] {
            assert!(check("container", wrong).is_err(), "{wrong}");
        }
        assert!((0..100).all(|n| check("container", &random_name(n % 2)).is_ok()));
        assert_eq!(new_id().len(), 64);
    }
}
