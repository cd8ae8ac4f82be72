//! What a failed start reports: one fixed-size value, no strings.

use std::fmt;

/// Where inside a step it failed, so that one message can name the right cause.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The step's one system call.
    Call = 0,
    /// The source of a mount, in the host's view.
    Source = 1,
    /// Looking up the target beneath the container's root.
    Target = 2,
    /// Making the target, because the image has none.
    CreateTarget = 3,
    /// Attaching the mount to its target.
    Attach = 4,
    /// Setting attributes (read-only, propagation) of the mount.
    Attributes = 5,
    /// A file that must be the kernel's own isn't (a masked path, a file of procfs).
    NotGenuine = 6,
    /// The program was not found in any directory of PATH.
    NotInPath = 7,
    /// The parent's side: cgroups, clone, id maps.
    Parent = 8,
    /// The child vanished without a word (killed).
    Vanished = 9,
    /// Copying the image's files into a new mount.
    CopyUp = 10,
    /// Mapping the ids of a mount.
    IdMap = 11,
}

impl Detail {
    fn from_u32(n: u32) -> Self {
        match n {
            1 => Self::Source,
            2 => Self::Target,
            3 => Self::CreateTarget,
            4 => Self::Attach,
            5 => Self::Attributes,
            6 => Self::NotGenuine,
            7 => Self::NotInPath,
            8 => Self::Parent,
            9 => Self::Vanished,
            10 => Self::CopyUp,
            11 => Self::IdMap,
            _ => Self::Call,
        }
    }
}

/// A step that failed. [`crate::Plan::explain`] turns it into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepError {
    /// Number of the step in its plan.
    pub step: u32,
    pub errno: i32,
    pub detail: Detail,
}

impl StepError {
    /// Length of the encoded form.
    pub const LEN: usize = 12;

    /// Little-endian `step`, `errno`, `detail`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&self.step.to_le_bytes());
        out[4..8].copy_from_slice(&self.errno.to_le_bytes());
        out[8..].copy_from_slice(&(self.detail as u32).to_le_bytes());
        out
    }

    /// The inverse of [`StepError::to_bytes`].
    #[must_use]
    pub fn from_bytes(b: [u8; Self::LEN]) -> Self {
        let word = |i: usize| [b[i], b[i + 1], b[i + 2], b[i + 3]];
        Self {
            step: u32::from_le_bytes(word(0)),
            errno: i32::from_le_bytes(word(4)),
            detail: Detail::from_u32(u32::from_le_bytes(word(8))),
        }
    }
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = std::io::Error::from_raw_os_error(self.errno);
        write!(f, "step {} ({:?}): {e}", self.step, self.detail)
    }
}

impl std::error::Error for StepError {}
