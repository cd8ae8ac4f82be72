//! Platforms: `linux/arm64`, `linux/arm/v7`. source: OCI image-spec 1.1 "Image Index"; containerd's
//! names for the same

use std::fmt;

/// An operating system, an architecture and its variant, in the names that images use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub arch: String,
    /// `v7` of arm; empty where the architecture has none.
    pub variant: String,
}

impl Platform {
    /// Reads `os/arch`, `os/arch/variant`, or an architecture or system alone, the rest being
    /// `default`'s. Other names of an architecture become the one that images use.
    ///
    /// # Errors
    /// What is no platform, in words that follow `failed to parse platform X:`.
    pub fn parse(text: &str, default: &Self) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        for part in &parts {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            if part.is_empty() || !part.chars().all(fits) {
                return Err(format!(
                    "{part:?} is an invalid component of {text:?}: letters, digits, _ . and -"
                ));
            }
        }
        let lower: Vec<String> = parts.iter().map(|p| p.to_lowercase()).collect();
        let (os, arch, variant) = match lower.as_slice() {
            [one] if KNOWN_SYSTEMS.contains(&one.as_str()) => {
                let same = default.clone();
                (one.as_str(), same.arch, same.variant)
            }
            [one] => {
                let (arch, variant) = architecture(one, "");
                if !KNOWN_ARCHITECTURES.contains(&arch.as_str()) {
                    return Err(format!(
                        "{text:?}: unknown operating system or architecture"
                    ));
                }
                (default.os.as_str(), arch, variant)
            }
            [os, arch] => {
                let (arch, variant) = architecture(arch, "");
                (os.as_str(), arch, variant)
            }
            [os, arch, variant] => {
                let (arch, variant) = architecture(arch, variant);
                (os.as_str(), arch, variant)
            }
            _ => return Err(format!("{text:?} is not os/arch or os/arch/variant")),
        };
        let os = if os == "macos" { "darwin" } else { os };
        Ok(Self {
            os: os.to_owned(),
            arch,
            variant,
        })
    }
}

const KNOWN_SYSTEMS: [&str; 8] = [
    "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "solaris",
];

const KNOWN_ARCHITECTURES: [&str; 13] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x",
];

fn architecture(arch: &str, variant: &str) -> (String, String) {
    let (arch, variant) = match (arch, variant) {
        ("i386", v) => ("386", v),
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", v) => ("amd64", v),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (arch.to_owned(), variant.to_owned())
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let default = Platform {
            os: "linux".into(),
            arch: "arm64".into(),
            variant: String::new(),
        };
        let read = |text| Platform::parse(text, &default).map(|p| p.to_string());
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("armhf", "linux/arm/v7"),
            ("amd64", "linux/amd64"),
            ("windows", "windows/arm64"),
            ("linux/riscv64", "linux/riscv64"),
            ("linux/wasm", "linux/wasm"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "linux/", "a/b/c/d", "toaster", "linux/$x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
