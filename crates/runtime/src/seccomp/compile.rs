//! From rules to a BPF program.
//!
//! ```text
//! load arch; for each architecture:
//!     load number; x32's bit -> its own tree
//!     binary search over the ranges of numbers that share a verdict
//!     leaf: return, or tests of arguments and then return
//! ```
//!
//! A linear chain as libseccomp writes it walks some 300 comparisons for a call late in the list;
//! the search takes about nine. The kernel runs the program once for each number when it is
//! installed, to know which calls are always allowed, so short paths pay at each start too.
//!
//! source: Linux Documentation/userspace-api/seccomp_filter.rst, networking/filter.rst.

use std::collections::BTreeMap;

use super::CompileError;
use super::table::{LAST_KNOWN, Machine};

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Test {
    NotEqual,
    Less,
    LessEqual,
    Equal,
    GreaterEqual,
    Greater,
    /// (argument & mask) == value
    Masked(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) test: Test,
    pub(super) value: u64,
    /// The kernel takes this argument as 32 bits: the upper word is not looked at.
    pub(super) low_word: bool,
}

/// An action when all conditions (at least one) hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Alternative {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// What happens to one call: the first alternative that holds, else `otherwise`, else the default.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    pub(super) alternatives: Vec<Alternative>,
    pub(super) otherwise: Option<u32>,
}

/// Rules for one machine, by number.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) calls: BTreeMap<u32, Verdict>,
    /// Numbers above this get `beyond`.
    pub(super) last: u32,
}

/// A whole filter, before it is a program.
#[derive(Debug, Clone)]
pub(super) struct Rulebook {
    pub(super) machines: BTreeMap<Machine, Rules>,
    pub(super) default: u32,
    /// For numbers no rule could know.
    pub(super) beyond: u32,
}

pub(super) const ERRNO: u32 = 0x0005_0000;
pub(super) const ENOSYS: u32 = ERRNO | 38;
const KILL_PROCESS: u32 = 0x8000_0000;
const X32_BIT: u32 = 0x4000_0000;
const MAX_LEN: usize = 4096;

const LD_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const AND: u16 = 0x54;
const RET: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

/// `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Insn {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

fn insn(code: u16, k: u32) -> Insn {
    Insn {
        code,
        yes: 0,
        no: 0,
        k,
    }
}

/// A program from its end to its beginning: where a jump leads is known when it is written, and
/// nothing is moved.
struct Backwards {
    code: Vec<Insn>,
    default: u32,
}

/// The program's bytes.
pub(super) fn compile(book: &Rulebook) -> Result<Vec<u8>, CompileError> {
    let mut out = Backwards {
        code: Vec::with_capacity(1024),
        default: book.default,
    };
    out.code.push(insn(RET, KILL_PROCESS));
    for m in book.machines.keys().rev().filter(|m| **m != Machine::X32) {
        let end = out.code.len();
        let beyond = Verdict {
            alternatives: Vec::new(),
            otherwise: Some(book.beyond),
        };
        let nothing = Verdict::default();
        let tree = |m: Machine| {
            let rules = book.machines.get(&m)?;
            Some(out_ranges(book, rules, &nothing, &beyond))
        };
        let own = tree(*m).unwrap_or_default();
        if *m == Machine::X86_64 {
            let x32 = tree(Machine::X32);
            let yes = |out: &mut Backwards| match &x32 {
                Some(ranges) => {
                    out.search(ranges);
                    out.code.push(insn(AND, !X32_BIT));
                }
                None => out.code.push(insn(RET, ENOSYS)),
            };
            out.branch(JGE, X32_BIT, yes, |out| out.search(&own));
        } else {
            out.search(&own);
        }
        out.code.push(insn(LD_ABS, OFFSET_NUMBER));
        // another architecture: over this block
        let over = u32::try_from(out.code.len() - end).unwrap_or(u32::MAX);
        out.code.push(insn(JA, over));
        out.code.push(Insn {
            code: JEQ,
            yes: 1,
            no: 0,
            k: m.audit(),
        });
    }
    out.code.push(insn(LD_ABS, OFFSET_ARCH));
    if out.code.len() > MAX_LEN {
        return Err(CompileError::TooLong(out.code.len()));
    }
    let mut bytes = Vec::with_capacity(out.code.len() * 8);
    for i in out.code.iter().rev() {
        bytes.extend_from_slice(&i.code.to_ne_bytes());
        bytes.extend_from_slice(&[i.yes, i.no]);
        bytes.extend_from_slice(&i.k.to_ne_bytes());
    }
    Ok(bytes)
}

/// (first number of a range, verdict) of one machine.
type Ranges<'a> = Vec<(u32, &'a Verdict)>;

fn out_ranges<'a>(
    book: &Rulebook,
    rules: &'a Rules,
    nothing: &'a Verdict,
    beyond: &'a Verdict,
) -> Ranges<'a> {
    let action = |v: &Verdict| v.otherwise.unwrap_or(book.default);
    let mut ranges: Ranges<'a> = Vec::with_capacity(rules.calls.len());
    let mut put = |start, verdict: &'a Verdict| {
        let same =
            |v: &Verdict| action(v) == action(verdict) && v.alternatives == verdict.alternatives;
        if ranges.last().is_none_or(|(_, v)| !same(v)) {
            ranges.push((start, verdict));
        }
    };
    let mut next = 0;
    for (number, verdict) in &rules.calls {
        if *number > next {
            put(next, nothing);
        }
        put(*number, verdict);
        next = number + 1;
    }
    if rules.last >= next {
        put(next, nothing);
        next = rules.last + 1;
    }
    put(next, beyond);
    ranges
}

impl Backwards {
    /// `if A <op> k then yes else no`, where both blocks return.
    fn branch(&mut self, op: u16, k: u32, yes: impl FnOnce(&mut Self), no: impl FnOnce(&mut Self)) {
        yes(self);
        let start = self.code.len();
        no(self);
        let over = self.code.len() - start;
        if let Ok(over) = u8::try_from(over) {
            self.code.push(Insn {
                code: op,
                yes: over,
                no: 0,
                k,
            });
            return;
        }
        // a conditional jump reaches 255 instructions, an unconditional one any
        self.code
            .push(insn(JA, u32::try_from(over).unwrap_or(u32::MAX)));
        self.code.push(Insn {
            code: op,
            yes: 0,
            no: 1,
            k,
        });
    }

    /// The search over one machine's numbers.
    fn search(&mut self, ranges: &[(u32, &Verdict)]) {
        match ranges {
            [] => {}
            [(_, verdict)] => self.leaf(verdict),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let start = high[0].0;
                self.branch(JGE, start, |out| out.search(high), |out| out.search(low));
            }
        }
    }

    fn leaf(&mut self, verdict: &Verdict) {
        let action = verdict.otherwise.unwrap_or(self.default);
        self.code.push(insn(RET, action));
        for a in verdict.alternatives.iter().rev() {
            self.code.extend(alternative(a).into_iter().rev());
        }
    }
}

/// Where a jump of a test goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    /// The end of this condition: it holds.
    Holds,
    /// The end of this alternative: it doesn't.
    Fails,
}

fn alternative(a: &Alternative) -> Vec<Insn> {
    let tests: Vec<Vec<(Insn, To, To)>> = a.conditions.iter().map(condition).collect();
    let mut rest: usize = tests.iter().map(Vec::len).sum::<usize>() + 1;
    let mut out = Vec::with_capacity(rest);
    for test in tests {
        let mut left = test.len();
        for (i, yes, no) in test {
            (left, rest) = (left - 1, rest - 1);
            // at most six conditions of seven instructions: everything is in reach
            let jump = |to| {
                let n = match to {
                    To::Next => 0,
                    To::Holds => left,
                    To::Fails => rest,
                };
                u8::try_from(n).unwrap_or(u8::MAX)
            };
            out.push(Insn {
                yes: jump(yes),
                no: jump(no),
                ..i
            });
        }
    }
    out.push(insn(RET, a.action));
    out
}

fn condition(c: &Condition) -> Vec<(Insn, To, To)> {
    use To::{Fails, Holds, Next};
    // little-endian, as every machine of the table is
    let low_at = OFFSET_ARGS + 8 * c.index;
    let load = |at| (insn(LD_ABS, at), Next, Next);
    let (low, high) = ((c.value & 0xffff_ffff) as u32, (c.value >> 32) as u32);
    let mut out = Vec::new();
    if let Test::Masked(mask) = c.test {
        let (mask_low, mask_high) = ((mask & 0xffff_ffff) as u32, (mask >> 32) as u32);
        if mask_high != 0 || high != 0 {
            out.push(load(low_at + 4));
            out.push((insn(AND, mask_high), Next, Next));
            out.push((insn(JEQ, high), Next, Fails));
        }
        out.push(load(low_at));
        out.push((insn(AND, mask_low), Next, Next));
        out.push((insn(JEQ, low), Next, Fails));
        return out;
    }
    if !c.low_word {
        out.push(load(low_at + 4));
        match c.test {
            Test::Equal | Test::Masked(_) => out.push((insn(JEQ, high), Next, Fails)),
            Test::NotEqual => out.push((insn(JEQ, high), Next, Holds)),
            Test::Greater | Test::GreaterEqual => {
                out.push((insn(JGT, high), Holds, Next));
                out.push((insn(JEQ, high), Next, Fails));
            }
            Test::Less | Test::LessEqual => {
                out.push((insn(JGT, high), Fails, Next));
                out.push((insn(JEQ, high), Next, Holds));
            }
        }
    }
    out.push(load(low_at));
    out.push(match c.test {
        Test::Equal | Test::Masked(_) => (insn(JEQ, low), Next, Fails),
        Test::NotEqual => (insn(JEQ, low), Fails, Next),
        Test::Greater => (insn(JGT, low), Next, Fails),
        Test::GreaterEqual => (insn(JGE, low), Next, Fails),
        Test::Less => (insn(JGE, low), Fails, Next),
        Test::LessEqual => (insn(JGT, low), Fails, Next),
    });
    out
}

impl Rules {
    pub(super) fn new() -> Self {
        Self {
            calls: BTreeMap::new(),
            last: LAST_KNOWN,
        }
    }
}
