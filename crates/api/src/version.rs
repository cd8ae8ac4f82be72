//! The API's version: `/v1.41/...`, header `Api-Version`.

use std::fmt;
use std::str::FromStr;

/// `major.minor`; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

impl ApiVersion {
    /// The oldest that is served. It stays: each client left behind is somebody's broken pipeline.
    pub const MIN: Self = Self::new(1, 24);
    /// The newest that is served, and what a request without a prefix means.
    pub const MAX: Self = Self::new(1, 51);

    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// True for a client that speaks `1.minor` or later.
    #[must_use]
    pub fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }

    /// What a server of `MIN..=MAX` says to a client it cannot serve, in dockerd's words: clients
    /// look for them to fall back.
    #[must_use]
    pub fn refusal(self) -> Option<String> {
        if self < Self::MIN {
            Some(format!(
                "client version {self} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
                Self::MIN
            ))
        } else if self > Self::MAX {
            Some(format!(
                "client version {self} is too new. Maximum supported API version is {}",
                Self::MAX
            ))
        } else {
            None
        }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Not `major.minor`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an API version such as 1.41")]
pub struct ParseVersionError(String);

impl FromStr for ApiVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseVersionError(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(error)?;
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(major) || !digits(minor) {
            return Err(error());
        }
        Ok(Self {
            major: major.parse().map_err(|_| error())?,
            minor: minor.parse().map_err(|_| error())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_order() {
        let v: ApiVersion = "1.41".parse().unwrap();
        assert!(v.at_least(41) && !v.at_least(42));
        assert!("1.9".parse::<ApiVersion>().unwrap() < v);
        for bad in ["", "1", "1.", ".4", "1.4.1", "v1.4", "1.+4", "1.99999"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals() {
        assert!(
            ApiVersion::new(1, 23)
                .refusal()
                .unwrap()
                .contains("too old")
        );
        assert!(
            ApiVersion::new(1, 99)
                .refusal()
                .unwrap()
                .contains("too new")
        );
        assert_eq!(ApiVersion::MAX.refusal(), None);
    }
}
