//! Device rules: lines for v1's list, an eBPF program for v2.
//!
//! source: Linux include/uapi/linux/bpf.h (struct bpf_cgroup_dev_ctx), cgroup-v1/devices.rst.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

/// What every container may do whatever else is denied: make nodes, and use the harmless ones.
/// (type, major, minor, access); -1 is any.
const ALWAYS: [(LinuxDeviceType, i64, i64, &str); 10] = [
    (LinuxDeviceType::C, -1, -1, "m"),
    (LinuxDeviceType::B, -1, -1, "m"),
    (LinuxDeviceType::C, 1, 3, "rwm"),
    (LinuxDeviceType::C, 1, 5, "rwm"),
    (LinuxDeviceType::C, 1, 7, "rwm"),
    (LinuxDeviceType::C, 1, 8, "rwm"),
    (LinuxDeviceType::C, 1, 9, "rwm"),
    (LinuxDeviceType::C, 5, 0, "rwm"),
    (LinuxDeviceType::C, 5, 2, "rwm"),
    (LinuxDeviceType::C, 136, -1, "rwm"),
];

/// One rule, normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `a`, `b` or `c`.
    kind: char,
    major: Option<u32>,
    minor: Option<u32>,
    access: String,
}

fn number(n: Option<i64>) -> Option<u32> {
    n.and_then(|n| u32::try_from(n).ok())
}

fn rules(spec: &[LinuxDeviceCgroup]) -> Vec<Rule> {
    let of = |allow, typ: LinuxDeviceType, major, minor, access: &str| Rule {
        allow,
        kind: match typ {
            LinuxDeviceType::A => 'a',
            LinuxDeviceType::B => 'b',
            LinuxDeviceType::C | LinuxDeviceType::U | LinuxDeviceType::P => 'c',
        },
        major,
        minor,
        access: if access.is_empty() { "rwm" } else { access }.to_owned(),
    };
    let mut out: Vec<Rule> = spec
        .iter()
        .map(|r| {
            let access = r.access().as_deref().unwrap_or("");
            let typ = r.typ().unwrap_or_default();
            of(r.allow(), typ, number(r.major()), number(r.minor()), access)
        })
        .collect();
    if out.iter().any(|r| !r.allow && r.kind == 'a') {
        let always = ALWAYS.iter();
        out.extend(always.map(|(t, major, minor, access)| {
            of(true, *t, number(Some(*major)), number(Some(*minor)), access)
        }));
    }
    out
}

/// Everything is allowed: no list is needed.
pub(crate) fn unrestricted(spec: Option<&[LinuxDeviceCgroup]>) -> bool {
    spec.is_none_or(|s| s.iter().all(LinuxDeviceCgroup::allow))
}

/// (file, line) for v1, in order.
pub(crate) fn lines(spec: &[LinuxDeviceCgroup]) -> Vec<(&'static str, String)> {
    let star = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    rules(spec)
        .iter()
        .map(|r| {
            let file = if r.allow {
                "devices.allow"
            } else {
                "devices.deny"
            };
            let line = if r.kind == 'a' {
                // with numbers the kernel takes it for all of them anyway
                "a".to_owned()
            } else {
                format!(
                    "{} {}:{} {}",
                    r.kind,
                    star(r.major),
                    star(r.minor),
                    r.access
                )
            };
            (file, line)
        })
        .collect()
}

/// What may be used, as systemd's `DeviceAllow` names it: `/dev/char/1:3`, `char-136`, `char-*`. At
/// least all that the rules allow; `None` when they allow everything.
pub(crate) fn nodes(spec: &[LinuxDeviceCgroup]) -> Option<Vec<(String, String)>> {
    if unrestricted(Some(spec)) {
        return None;
    }
    let all = rules(spec);
    let everything = |r: &&Rule| r.kind == 'a' && r.major.is_none() && r.minor.is_none();
    let last = all.iter().rposition(|r| everything(&r));
    if last.is_some_and(|at| all[at].allow) {
        return None;
    }
    let mut out = Vec::new();
    for r in all[last.map_or(0, |at| at + 1)..]
        .iter()
        .filter(|r| r.allow)
    {
        let kinds: &[&str] = match r.kind {
            'b' => &["block"],
            'c' => &["char"],
            _ => &["block", "char"],
        };
        for word in kinds {
            let node = match (r.major, r.minor) {
                (Some(major), Some(minor)) => format!("/dev/{word}/{major}:{minor}"),
                (Some(major), None) => format!("{word}-{major}"),
                // one minor of every major can't be said
                (None, _) => format!("{word}-*"),
            };
            out.push((node, r.access.clone()));
        }
    }
    Some(out)
}

const BLOCK: i32 = 1;
const CHAR: i32 = 2;
const MKNOD: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    u64::from(code)
        | u64::from(dst | src << 4) << 8
        | u64::from(off.cast_unsigned()) << 16
        | u64::from(imm.cast_unsigned()) << 32
}

/// The v2 program: the last rule that matches decides, so rules are tried from the last; an
/// allowing rule matches when it covers all that is asked, a denying one when it covers any of it.
///
/// r2 type, r3 access, r4 major, r5 minor.
pub(crate) fn program(spec: &[LinuxDeviceCgroup]) -> Vec<u64> {
    const LDX_W: u8 = 0x61;
    const MOV_IMM: u8 = 0xb7;
    const MOV_REG: u8 = 0xbf;
    const AND_IMM: u8 = 0x57;
    const RSH_IMM: u8 = 0x77;
    const JNE_IMM: u8 = 0x55;
    const JEQ_IMM: u8 = 0x15;
    const JNE_REG: u8 = 0x5d;
    const EXIT: u8 = 0x95;
    let mut out = vec![
        insn(LDX_W, 2, 1, 0, 0),
        insn(MOV_REG, 3, 2, 0, 0),
        insn(AND_IMM, 2, 0, 0, 0xffff),
        insn(RSH_IMM, 3, 0, 0, 16),
        insn(LDX_W, 4, 1, 4, 0),
        insn(LDX_W, 5, 1, 8, 0),
    ];
    for r in rules(spec).iter().rev() {
        // (is the jump, its offset is to the end of this rule)
        let mut rule: Vec<(bool, u64)> = Vec::new();
        match r.kind {
            'b' => rule.push((true, insn(JNE_IMM, 2, 0, 0, BLOCK))),
            'c' => rule.push((true, insn(JNE_IMM, 2, 0, 0, CHAR))),
            _ => {}
        }
        let bits = r.access.chars().fold(0, |b, c| {
            b | match c {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => 0,
            }
        });
        if bits != READ | WRITE | MKNOD {
            rule.push((false, insn(MOV_REG, 6, 3, 0, 0)));
            rule.push((false, insn(AND_IMM, 6, 0, 0, bits)));
            rule.push((
                true,
                if r.allow {
                    insn(JNE_REG, 6, 3, 0, 0)
                } else {
                    insn(JEQ_IMM, 6, 0, 0, 0)
                },
            ));
        }
        if let Some(major) = r.major {
            rule.push((true, insn(JNE_IMM, 4, 0, 0, major.cast_signed())));
        }
        if let Some(minor) = r.minor {
            rule.push((true, insn(JNE_IMM, 5, 0, 0, minor.cast_signed())));
        }
        rule.push((false, insn(MOV_IMM, 0, 0, 0, i32::from(r.allow))));
        rule.push((false, insn(EXIT, 0, 0, 0, 0)));
        let last = rule.len();
        for (at, (jump, word)) in rule.into_iter().enumerate() {
            // a rule has at most 10 instructions
            let over = if jump { (last - at - 1) as u64 } else { 0 };
            out.push(word | over << 16);
        }
        if r.kind == 'a' && r.major.is_none() && r.minor.is_none() && bits == 7 {
            // decides everything: the verifier refuses code that can't be reached
            return out;
        }
    }
    out.push(insn(MOV_IMM, 0, 0, 0, 0));
    out.push(insn(EXIT, 0, 0, 0, 0));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    pub(crate) fn deny_all() -> LinuxDeviceCgroup {
        LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()
            .unwrap()
    }

    #[test]
    fn v1_lines() {
        let fuse = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(10)
            .minor(229)
            .access("rwm")
            .build()
            .unwrap();
        let lines = lines(&[deny_all(), fuse]);
        assert_eq!(lines[0], ("devices.deny", "a".to_owned()));
        assert_eq!(lines[1], ("devices.allow", "c 10:229 rwm".to_owned()));
        assert!(lines.contains(&("devices.allow", "c 136:* rwm".to_owned())));
    }

    #[test]
    fn systemd_is_told_all_that_is_allowed() {
        let rule = |typ, major, minor, access: &str| {
            let mut r = LinuxDeviceCgroup::default();
            r.set_allow(true);
            r.set_typ(Some(typ));
            r.set_major(major);
            r.set_minor(minor);
            r.set_access(Some(access.to_owned()));
            r
        };
        let spec = [
            rule(LinuxDeviceType::C, Some(9), Some(9), "r"),
            deny_all(),
            rule(LinuxDeviceType::C, Some(10), Some(229), "rwm"),
            rule(LinuxDeviceType::B, Some(8), None, "r"),
        ];
        let nodes = nodes(&spec).unwrap();
        let own = |n: &str, a: &str| (n.to_owned(), a.to_owned());
        assert_eq!(nodes[0], own("/dev/char/10:229", "rwm"));
        assert_eq!(nodes[1], own("block-8", "r"));
        assert_eq!(nodes[2], own("char-*", "m"));
        assert!(nodes.contains(&own("/dev/char/1:3", "rwm")));
        assert!(nodes.contains(&own("char-136", "rwm")));
        assert!(!nodes.iter().any(|(n, _)| n.contains("9:9")));
        assert_eq!(
            super::nodes(&[rule(LinuxDeviceType::A, None, None, "rwm")]),
            None
        );
    }

    #[test]
    fn privileged_needs_no_list() {
        assert!(unrestricted(None));
        let all = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .access("rwm")
            .build()
            .unwrap();
        assert!(unrestricted(Some(&[all])));
        assert!(!unrestricted(Some(&[deny_all()])));
    }
}
