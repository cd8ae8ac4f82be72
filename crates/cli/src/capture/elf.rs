//! What an ELF file needs to be loaded.
//! source: System V ABI "Dynamic Linking"; ld.so(8)

use std::path::Path;

use object::elf;
use object::endian::Endianness;
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};

use super::CaptureError;

/// Two files can be loaded together only if these are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) wide: bool,
    pub(crate) number: u16,
}

impl Machine {
    /// `$LIB` of ld.so on Debian's multiarch, and on others.
    pub(crate) fn lib_dirs(self) -> &'static [&'static str] {
        match (self.number, self.wide) {
            (elf::EM_X86_64, true) => &["lib/x86_64-linux-gnu", "lib64", "lib"],
            (elf::EM_386, _) => &["lib/i386-linux-gnu", "lib32", "lib"],
            (elf::EM_AARCH64, _) => &["lib/aarch64-linux-gnu", "lib64", "lib"],
            (_, true) => &["lib64", "lib"],
            _ => &["lib"],
        }
    }

    pub(crate) fn platform(self) -> &'static str {
        match self.number {
            elf::EM_X86_64 => "x86_64",
            elf::EM_AARCH64 => "aarch64",
            elf::EM_386 => "i686",
            _ => "",
        }
    }
}

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) machine: Machine,
    pub(crate) interpreter: Option<String>,
    pub(crate) libraries: Vec<String>,
    pub(crate) rpath: Vec<String>,
    pub(crate) runpath: Vec<String>,
}

pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(&elf::ELFMAG)
}

/// Reads what the file needs; an object file or core without a dynamic part needs nothing.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Needs, CaptureError> {
    let damaged = |reason: &str| CaptureError::Elf {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    match bytes.get(4) {
        Some(&elf::ELFCLASS64) => needs::<elf::FileHeader64<Endianness>>(bytes),
        Some(&elf::ELFCLASS32) => needs::<elf::FileHeader32<Endianness>>(bytes),
        _ => return Err(damaged("neither 32 nor 64 bits")),
    }
    .map_err(|e| damaged(&e))
}

fn needs<H: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Result<Needs, String> {
    let words = |e: object::Error| e.to_string();
    let header = H::parse(bytes).map_err(words)?;
    let endian = header.endian().map_err(words)?;
    let segments = header.program_headers(endian, bytes).map_err(words)?;
    let mut found = Needs {
        machine: Machine {
            wide: header.is_class_64(),
            number: header.e_machine(endian),
        },
        interpreter: None,
        libraries: Vec::new(),
        rpath: Vec::new(),
        runpath: Vec::new(),
    };
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, bytes).map_err(words)? {
            found.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
    }
    let Some(entries) = segments
        .iter()
        .find_map(|s| s.dynamic(endian, bytes).transpose())
        .transpose()
        .map_err(words)?
    else {
        return Ok(found);
    };
    let value = |tag: i64| {
        entries
            .iter()
            .find(|d| d.tag(endian) == tag)
            .map(|d| d.d_val(endian).into())
    };
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
        return Ok(found);
    };
    let strings = segments
        .iter()
        .filter(|s| s.p_type(endian) == elf::PT_LOAD)
        .find_map(|s| s.data_range(endian, bytes, address, size).ok().flatten())
        .ok_or("its string table is in no segment")?;
    let text = |offset: u64| -> Result<String, String> {
        let at = usize::try_from(offset).map_err(|_| "a string out of range".to_owned())?;
        let rest = strings.get(at..).ok_or("a string out of range")?;
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    };
    let list = |t: String| {
        t.split(':')
            .filter(|p| !p.is_empty())
            .map(str::to_owned)
            .collect()
    };
    for entry in entries {
        let offset: u64 = entry.d_val(endian).into();
        match entry.tag(endian) {
            elf::DT_NEEDED => found.libraries.push(text(offset)?),
            elf::DT_RPATH => found.rpath = list(text(offset)?),
            elf::DT_RUNPATH => found.runpath = list(text(offset)?),
            elf::DT_NULL => break,
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_itself_needs_libc() {
        let path = std::env::current_exe().expect("a path");
        let bytes = std::fs::read(&path).expect("read");
        let needs = read(&path, &bytes).expect("understood");
        if needs.interpreter.is_some() {
            assert!(
                needs.libraries.iter().any(|l| l.starts_with("libc.")),
                "{needs:?}"
            );
        }
        assert!(needs.machine.wide);
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let path = std::env::current_exe().expect("a path");
        let bytes = std::fs::read(&path).expect("read");
        for cut in [5, 16, 63, 64, 100, 1000] {
            drop(read(&path, &bytes[..cut]));
        }
        // numbers in the headers and the dynamic part, each in turn
        for at in 0..4096.min(bytes.len()) {
            let mut damaged = bytes[..(64 << 10).min(bytes.len())].to_vec();
            damaged[at] ^= 0xff;
            drop(read(&path, &damaged));
        }
    }
}
