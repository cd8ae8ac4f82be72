//! Numbers that a seed tells, so that a run can be had again; and what is odd to send.

use serde_json::{Map, Value, json};

/// SplitMix64. source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`, which is not zero.
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("less than a usize")
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most) + 1;
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Texts that parsers stumble over.
const ODD: &[&str] = &[
    "",
    " ",
    "\0",
    "x",
    "-1",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551616",
    "1e309",
    "0x10",
    "007x",
    "NaN",
    "null",
    "true",
    "x=y",
    "=",
    ":",
    "::",
    "/",
    "//",
    "/nowhere",
    "../../../../nowhere",
    "x/../../y",
    "x:y:z",
    "x,y,,z",
    "%",
    "%00",
    "%ff",
    "%s%n%p",
    "{{.}}",
    "$(reboot-not)",
    "'\"`\\",
    "\r\nX-Injected: y",
    "\u{202e}\u{feff}",
    "🦀🦀🦀",
    "é",
    "[",
    "(",
    "(((((x*)*)*)*)*)",
    "[x-",
    "*",
    "?",
    "@sha256:x",
    "sha256:",
    "sha256:zz",
    "X:latest@",
    "UPPER/Case:TAG",
    "localhost:1/x:y",
    "host",
    "none",
    "container:",
    "container:t0",
    "container:container:t1",
    "1970-01-01T00:00:00Z",
    "2106-02-07T06:28:16.999999999999Z",
    "-5m",
    "99999999h",
    "1.7976931348623157e308",
    "SIGKILL",
    "SIGRTMAX+1",
    "linux/amd64",
    "linux/",
    "t0",
    "t1",
    "v0",
    "n0",
    "fuzz:1",
];

/// One of them, or one made up. None leads to a path of the host or could be part of an id.
pub(super) fn text(random: &mut Random) -> String {
    match random.below(20) {
        0 => "x".repeat(random.below(70_000)),
        1 => "/x".repeat(random.below(3_000)),
        2 => String::from_utf8_lossy(&random.bytes(40)).into_owned(),
        _ => (*random.pick(ODD)).to_owned(),
    }
}

/// Any value, of a type that may be the wrong one.
fn value(random: &mut Random) -> Value {
    match random.below(16) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(1),
        5 => json!(i64::MIN),
        6 => json!(i64::MAX),
        7 => json!(u64::MAX),
        8 => json!(1e308),
        9 => json!(0.5),
        10 => json!([]),
        11 => json!({}),
        12 => json!([null, {"": []}]),
        13 => json!({"": {"": null}, "x": "y"}),
        _ => json!(text(random)),
    }
}

/// Changes one value somewhere in it, or a member of an object.
pub(super) fn mutate(random: &mut Random, whole: &mut Value) {
    let mut at = whole;
    loop {
        let deeper = match at {
            Value::Object(members) if !members.is_empty() => !random.one_in(5),
            Value::Array(items) if !items.is_empty() => !random.one_in(5),
            _ => false,
        };
        if !deeper {
            break;
        }
        at = match at {
            Value::Object(members) => {
                let nth = random.below(members.len());
                members.values_mut().nth(nth).expect("so many members")
            }
            Value::Array(items) => {
                let nth = random.below(items.len());
                &mut items[nth]
            }
            _ => unreachable!("only these have something in them"),
        };
    }
    match at {
        Value::Object(members) => member(random, members),
        Value::Array(items) if random.one_in(3) => {
            let one = items.first().cloned().unwrap_or_else(|| value(random));
            items.resize(random.below(300), one);
        }
        Value::String(text) if random.one_in(3) => {
            let kept = random.below(text.chars().count() + 1);
            *text = text.chars().take(kept).collect();
        }
        other => *other = value(random),
    }
}

fn member(random: &mut Random, members: &mut Map<String, Value>) {
    let nth = random.below(members.len().max(1));
    let name = members.keys().nth(nth).cloned();
    match (random.below(4), name) {
        (0, Some(name)) => drop(members.remove(&name)),
        // names of members are read without regard to their case
        (1, Some(name)) => {
            members.insert(name.to_uppercase(), value(random));
        }
        (2, Some(name)) => {
            members.insert(name, value(random));
        }
        _ => {
            members.insert(text(random), value(random));
        }
    }
}

/// JSON as it should not be.
pub(super) fn spoil(random: &mut Random, json: &mut Vec<u8>) {
    let at = random.below(json.len() + 1);
    match random.below(9) {
        0 => json.truncate(at),
        1 => json.splice(at..at, [0xff, 0xfe]).for_each(drop),
        2 => json.splice(at..at, *b"\0").for_each(drop),
        3 => json.extend_from_slice(b"}]x"),
        4 => *json = b"[".repeat(random.below(200_000)),
        5 => *json = b"{\"HostConfig\":".repeat(random.below(50_000)),
        6 => json.splice(0..0, *b"\xef\xbb\xbf").for_each(drop),
        7 => *json = random.bytes(2_000),
        _ => {
            if let Some(byte) = json.get_mut(at) {
                *byte = byte.wrapping_add(1);
            }
        }
    }
}

/// As it may stand in a URL: sometimes with less encoded than should be.
pub(super) fn encode(random: &mut Random, text: &str, slashes: bool) -> String {
    let raw = random.one_in(30);
    let mut out = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
        if plain || slashes && byte == b'/' || raw && byte.is_ascii_graphic() && byte != b'#' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}
