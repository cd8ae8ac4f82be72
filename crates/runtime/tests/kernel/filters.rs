//! Filters a second time: the kernel's interpreter, and a profile read without any compiler. The
//! fuzz target shares this file.

use serde_json::{Value, json};

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const X86_64: u32 = 0xc000_003e;
pub(crate) const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;

/// What the kernel would do: classic BPF over `struct seccomp_data`.
pub(crate) fn interpret(program: &[u8], arch: u32, nr: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(nr.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
    let insns: Vec<_> = program
        .chunks_exact(8)
        .map(|i| {
            let code = u16::from_ne_bytes([i[0], i[1]]);
            (
                code,
                usize::from(i[2]),
                usize::from(i[3]),
                u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
            )
        })
        .collect();
    let (mut a, mut pc, mut steps) = (0_u32, 0, 0);
    loop {
        let (code, yes, no, k) = insns[pc];
        (pc, steps) = (pc + 1, steps + 1);
        let jump = |holds: bool| if holds { yes } else { no };
        match code {
            0x20 => {
                let at = k as usize;
                a = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            }
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => pc += jump(a == k),
            0x25 => pc += jump(a > k),
            0x35 => pc += jump(a >= k),
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Calls with their numbers on x86_64, i386 and x32.
/// source: Linux arch/x86/entry/syscalls.
const CALLS: [(&str, [u32; 3]); 8] = [
    ("read", [0, 3, 0]),
    ("openat", [257, 295, 257]),
    ("mkdir", [83, 39, 83]),
    ("ioctl", [16, 54, 514]),
    ("execve", [59, 11, 520]),
    ("clone3", [435, 435, 435]),
    ("statx", [332, 383, 332]),
    ("personality", [135, 136, 135]),
];

const OPS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];

/// Name and value of each action; the first two take an errno.
const ACTIONS: [(&str, u32); 7] = [
    ("SCMP_ACT_ERRNO", ERRNO),
    ("SCMP_ACT_TRACE", 0x7ff0_0000),
    ("SCMP_ACT_ALLOW", ALLOW),
    ("SCMP_ACT_LOG", 0x7ffc_0000),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_TRAP", 0x0003_0000),
    ("SCMP_ACT_KILL_THREAD", 0),
];

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) names: Vec<usize>,
    pub(crate) action: u8,
    pub(crate) errno: Option<u16>,
    /// (argument, operator, value, second value)
    pub(crate) conditions: Vec<(usize, u8, u64, u64)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: usize,
    /// x86_64, i386, x32, none of them.
    pub(crate) machine: u8,
    pub(crate) args: [u64; 6],
}

impl Call {
    pub(crate) fn arch(&self) -> u32 {
        match self.machine {
            1 => I386,
            3 => 0xc000_00b7,
            _ => X86_64,
        }
    }

    pub(crate) fn number(&self) -> u32 {
        let numbers = CALLS[self.name].1;
        match self.machine {
            1 => numbers[1],
            2 => numbers[2] | X32_BIT,
            _ => numbers[0],
        }
    }
}

fn value(action: u8, errno: Option<u16>) -> u32 {
    let (_, value) = ACTIONS[usize::from(action)];
    match action {
        0 | 1 => value | errno.map_or(1, |e| u32::from(e).min(4095)),
        _ => value,
    }
}

/// As JSON, for all three machines.
pub(crate) fn profile(default: u8, rules: &[Rule]) -> Value {
    let rules: Vec<_> = rules
        .iter()
        .map(|r| {
            let names: Vec<_> = r.names.iter().map(|n| CALLS[*n].0).collect();
            let args: Vec<_> = r
                .conditions
                .iter()
                .map(|(index, op, value, two)| {
                    let op = OPS[usize::from(*op)];
                    json!({"index": index, "op": op, "value": value, "valueTwo": two})
                })
                .collect();
            let action = ACTIONS[usize::from(r.action)].0;
            let mut rule = json!({"names": names, "action": action, "args": args});
            if let (0 | 1, Some(errno)) = (r.action, r.errno) {
                rule["errnoRet"] = json!(errno);
            }
            rule
        })
        .collect();
    json!({
        "defaultAction": ACTIONS[usize::from(default)].0, "syscalls": rules,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    })
}

fn holds(condition: &(usize, u8, u64, u64), args: [u64; 6]) -> bool {
    let (index, op, value, two) = *condition;
    let a = args[index];
    match op {
        0 => a != value,
        1 => a < value,
        2 => a <= value,
        3 => a == value,
        4 => a >= value,
        5 => a > value,
        _ => a & value == two,
    }
}

/// What the profile says about a call: the first rule with conditions that hold, else the first
/// without any, else the default; and what no rule could know is answered with ENOSYS.
pub(crate) fn decide(default: u8, rules: &[Rule], call: &Call) -> u32 {
    if call.machine == 3 {
        return 0x8000_0000;
    }
    let own = value(default, None);
    let about = |r: &&Rule| r.names.contains(&call.name);
    for r in rules
        .iter()
        .filter(about)
        .filter(|r| !r.conditions.is_empty())
    {
        let mut indices: Vec<_> = r.conditions.iter().map(|c| c.0).collect();
        indices.sort_unstable();
        let repeated = indices.windows(2).any(|w| w[0] == w[1]);
        let mut each = r.conditions.iter().map(|c| holds(c, call.args));
        let matches = if repeated {
            each.any(|h| h)
        } else {
            each.all(|h| h)
        };
        if matches {
            return value(r.action, r.errno);
        }
    }
    let always = rules
        .iter()
        .filter(about)
        .filter(|r| r.conditions.is_empty())
        .map(|r| value(r.action, r.errno))
        .find(|v| *v != own);
    always.unwrap_or_else(|| beyond(default, rules, call).unwrap_or(own))
}

/// A profile that refuses by default can't have meant calls newer than the last it names.
fn beyond(default: u8, rules: &[Rule], call: &Call) -> Option<u32> {
    let machine = usize::from(call.machine);
    let default_value = value(default, None);
    let named = rules
        .iter()
        .filter(|r| !r.conditions.is_empty() || value(r.action, r.errno) != default_value)
        .flat_map(|r| r.names.iter().map(|n| CALLS[*n].1[machine]));
    let last = named.max().unwrap_or(470);
    let number = CALLS[call.name].1[machine];
    (default == 0 && number > last).then_some(ERRNO | 38)
}
