//! The plan's bytes: little-endian numbers, strings with their NUL, so that the child hands them to
//! the kernel from where they lie.

use std::ffi::CStr;

/// Reads on; `None` is a damaged plan. Decoding checks everything once, so the child's second walk
/// can't fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n)?;
        self.rest = tail;
        Some(head)
    }
}

/// A value in a plan.
pub(crate) trait Wire<'a>: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn get(r: &mut Reader<'a>) -> Option<Self>;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Wire<'_> for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(r: &mut Reader<'_>) -> Option<Self> {
                Some(Self::from_le_bytes(r.take(size_of::<$t>())?.try_into().ok()?))
            }
        }
    )*};
}

numbers!(u16, u32, u64, i32);

impl Wire<'_> for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn get(r: &mut Reader<'_>) -> Option<Self> {
        match r.take(1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

fn put_len(n: usize, out: &mut Vec<u8>) {
    // a plan of 4 GiB can't be made: arguments and environment are bounded by the kernel long before
    u32::try_from(n).unwrap_or(u32::MAX).put(out);
}

impl<'a> Wire<'a> for &'a [u8] {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self);
    }

    fn get(r: &mut Reader<'a>) -> Option<Self> {
        let n = u32::get(r)?;
        r.take(n as usize)
    }
}

impl<'a> Wire<'a> for &'a CStr {
    fn put(&self, out: &mut Vec<u8>) {
        self.to_bytes_with_nul().put_bytes(out);
    }

    fn get(r: &mut Reader<'a>) -> Option<Self> {
        CStr::from_bytes_with_nul(<&[u8]>::get(r)?).ok()
    }
}

trait PutBytes {
    fn put_bytes(&self, out: &mut Vec<u8>);
}

impl PutBytes for [u8] {
    fn put_bytes(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self);
    }
}

/// A list whose items are decoded as it is walked: as many values as `count`.
#[derive(Clone, Copy)]
pub(crate) struct List<'a, T> {
    count: u32,
    bytes: &'a [u8],
    item: std::marker::PhantomData<T>,
}

impl<'a, T: Wire<'a>> List<'a, T> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut r = Reader::new(self.bytes);
        (0..self.count).map_while(move |_| T::get(&mut r))
    }

    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for List<'a, T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.count.put(out);
        self.bytes.put(out);
    }

    fn get(r: &mut Reader<'a>) -> Option<Self> {
        let count = u32::get(r)?;
        let bytes = <&[u8]>::get(r)?;
        let mut inner = Reader::new(bytes);
        for _ in 0..count {
            T::get(&mut inner)?;
        }
        (inner.left() == 0).then_some(Self {
            count,
            bytes,
            item: std::marker::PhantomData,
        })
    }
}

impl<'a, T: Wire<'a> + std::fmt::Debug> std::fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A list under construction.
pub(crate) struct ListBuf {
    count: u32,
    bytes: Vec<u8>,
}

impl ListBuf {
    pub(crate) fn of<'a, T: Wire<'a>>(items: impl IntoIterator<Item = T>) -> Self {
        let mut buf = Self {
            count: 0,
            bytes: Vec::new(),
        };
        for item in items {
            item.put(&mut buf.bytes);
            buf.count += 1;
        }
        buf
    }

    /// As a field of an operation about to be encoded.
    pub(crate) fn list<'a, T: Wire<'a>>(&'a self) -> List<'a, T> {
        List {
            count: self.count,
            bytes: &self.bytes,
            item: std::marker::PhantomData,
        }
    }
}

/// `key=value` for fsconfig; a flag has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting<'a> {
    pub(crate) key: &'a CStr,
    pub(crate) value: Option<&'a CStr>,
}

impl<'a> Wire<'a> for Setting<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        self.key.put(out);
        self.value.put(out);
    }

    fn get(r: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            key: Wire::get(r)?,
            value: Wire::get(r)?,
        })
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(v) = self {
            v.put(out);
        }
    }

    fn get(r: &mut Reader<'a>) -> Option<Self> {
        Some(if bool::get(r)? {
            Some(T::get(r)?)
        } else {
            None
        })
    }
}

/// Declares a struct whose fields lie one after the other.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $t:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name<'a> { $($(#[$fmeta])* pub(crate) $field: $t,)* pub(crate) _life: std::marker::PhantomData<&'a ()>, }

        impl<'a> $crate::wire::Wire<'a> for $name<'a> {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }
            fn get(r: &mut $crate::wire::Reader<'a>) -> Option<Self> {
                Some(Self { $($field: $crate::wire::Wire::get(r)?,)* _life: std::marker::PhantomData })
            }
        }
    };
}

/// Declares the enum of operations: a number and fields each.
macro_rules! operations {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $code:literal $variant:ident { $($field:ident: $t:ty),* $(,)? },)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum $name<'a> {
            $($(#[$vmeta])* $variant { $($field: $t),* },)*
            /// Never encoded: ties the lifetime.
            #[expect(dead_code, reason = "keeps the lifetime used if no operation borrows")]
            Never(std::convert::Infallible, std::marker::PhantomData<&'a ()>),
        }

        impl $name<'_> {
            /// The point at which tests may interrupt.
            pub(crate) fn fault_point(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => concat!("init.", stringify!($variant)),)*
                    Self::Never(never, _) => match *never {},
                }
            }
        }

        impl<'a> $crate::wire::Wire<'a> for $name<'a> {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        let code: u16 = $code;
                        code.put(out);
                        $($field.put(out);)*
                    })*
                    Self::Never(never, _) => match *never {},
                }
            }
            fn get(r: &mut $crate::wire::Reader<'a>) -> Option<Self> {
                match u16::get(r)? {
                    $($code => Some(Self::$variant { $($field: $crate::wire::Wire::get(r)?),* }),)*
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use {operations, record};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_got(items in proptest::collection::vec("[^\0]{0,20}", 0..8), n: u64, flag: bool) {
            let strings: Vec<_> = items.iter().map(|s| std::ffi::CString::new(s.as_str()).unwrap()).collect();
            let buf = ListBuf::of(strings.iter().map(|s| s.as_c_str()));
            let mut out = Vec::new();
            buf.list::<&CStr>().put(&mut out);
            n.put(&mut out);
            flag.then_some(n).put(&mut out);
            let mut r = Reader::new(&out);
            let list = List::<&CStr>::get(&mut r).unwrap();
            prop_assert!(list.iter().eq(strings.iter().map(|s| s.as_c_str())));
            prop_assert_eq!(u64::get(&mut r), Some(n));
            prop_assert_eq!(Option::<u64>::get(&mut r), Some(flag.then_some(n)));
            prop_assert_eq!(r.left(), 0);
            for cut in 0..out.len() {
                let mut r = Reader::new(&out[..cut]);
                let all = List::<&CStr>::get(&mut r).and_then(|_| u64::get(&mut r)).and_then(|_| Option::<u64>::get(&mut r));
                prop_assert!(all.is_none(), "a truncated plan was read at {}", cut);
            }
        }
    }
}
