//! `user[:group]` against an image's own /etc/passwd and /etc/group.
//!
//! source: passwd(5), group(5); the rules are those of Docker's `USER` and `--user`.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// A file of an image larger than this isn't read: it is hostile.
const MAX_FILE: u64 = 16 << 20;
/// The largest id: the kernel takes -1 for "none", and Docker refuses ids above 2^31 - 1.
const MAX_ID: u32 = 0x7fff_ffff;

/// Who a container's process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, sorted, without duplicates.
    pub groups: Vec<u32>,
    /// From passwd, else `/`.
    pub home: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("user or group id {0} is out of range: ids go from 0 to 2147483647")]
    Range(String),
    #[error("cannot read {path} of the image")]
    Read {
        path: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid`, `:group`, "" (root) inside a root directory,
/// never following a link out of it.
///
/// # Errors
/// A name without entry (a number needs none), or files that can't be read.
pub fn resolve(
    root: BorrowedFd<'_>,
    user: &str,
    additional_groups: &[String],
) -> Result<Identity, UserError> {
    let passwd = text(root, "/etc/passwd")?;
    let group = text(root, "/etc/group")?;
    from_text(&passwd, &group, user, additional_groups)
}

/// The home directory of a user by number; `/` where the image doesn't say.
#[must_use]
pub fn home(root: BorrowedFd<'_>, uid: u32) -> PathBuf {
    let passwd = text(root, "/etc/passwd").unwrap_or_default();
    let mut accounts = passwd.lines().filter_map(account);
    let home = accounts.find(|a| a.uid == uid).map(|a| a.home);
    PathBuf::from(home.filter(|h| !h.is_empty()).unwrap_or("/"))
}

fn text(root: BorrowedFd<'_>, path: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Read { path, source };
    // O_NONBLOCK: a pipe in the image must not stop the start
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        // an image without users: numbers still work
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(e) => return Err(failed(e.into())),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|e| failed(e.into()))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A number within range; `None` for a name.
fn number(word: &str) -> Result<Option<u32>, UserError> {
    if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match word.parse() {
        Ok(n) if n <= MAX_ID => Ok(Some(n)),
        _ => Err(UserError::Range(word.to_owned())),
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn account(line: &str) -> Option<Account<'_>> {
    let f: Vec<&str> = line.trim_end().split(':').collect();
    Some(Account {
        name: f.first().filter(|n| !n.is_empty())?,
        uid: f.get(2)?.parse().ok()?,
        gid: f.get(3)?.parse().ok()?,
        home: f.get(5).copied().unwrap_or("/"),
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn group(line: &str) -> Option<Group<'_>> {
    let mut f = line.trim_end().split(':');
    let name = f.next().filter(|n| !n.is_empty())?;
    Some(Group {
        name,
        gid: f.nth(1)?.parse().ok()?,
        members: f.next().unwrap_or(""),
    })
}

fn from_text(
    passwd: &str,
    groups: &str,
    user: &str,
    additional: &[String],
) -> Result<Identity, UserError> {
    let (user_word, group_word) = user.split_once(':').unwrap_or((user, ""));
    let id = number(user_word)?;
    let mut accounts = passwd.lines().filter_map(account);
    // a name first: an account may be called "1000"
    let found = match (user_word, id) {
        ("", _) => accounts.find(|a| a.uid == 0),
        (name, id) => {
            let all: Vec<_> = accounts.collect();
            let named = all.iter().position(|a| a.name == name);
            let at = named.or_else(|| all.iter().position(|a| Some(a.uid) == id));
            at.and_then(|at| all.into_iter().nth(at))
        }
    };
    if found.is_none() && id.is_none() && !user_word.is_empty() {
        return Err(UserError::NoUser(user_word.to_owned()));
    }
    let uid = found.as_ref().map(|a| a.uid).or(id).unwrap_or(0);
    let by_name = |word: &str| -> Result<u32, UserError> {
        let named = groups.lines().filter_map(group).find(|g| g.name == word);
        match (named, number(word)?) {
            (Some(g), _) => Ok(g.gid),
            (None, Some(n)) => Ok(n),
            (None, None) => Err(UserError::NoGroup(word.to_owned())),
        }
    };
    let mut supplementary = BTreeSet::new();
    let gid = if group_word.is_empty() {
        if let Some(a) = &found {
            let member = |g: &Group<'_>| g.members.split(',').any(|m| m == a.name);
            let of = groups.lines().filter_map(group).filter(member);
            supplementary.extend(of.map(|g| g.gid));
        }
        found.as_ref().map_or(0, |a| a.gid)
    } else {
        by_name(group_word)?
    };
    for word in additional {
        supplementary.insert(by_name(word)?);
    }
    for n in [uid, gid].iter().chain(&supplementary) {
        if *n > MAX_ID {
            return Err(UserError::Range(n.to_string()));
        }
    }
    let home = found
        .map(|a| a.home)
        .filter(|h| !h.is_empty())
        .unwrap_or("/");
    Ok(Identity {
        uid,
        gid,
        groups: supplementary.into_iter().collect(),
        home: PathBuf::from(home),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n\
        postgres:x:999:998::/var/lib/postgresql:/bin/sh\n7000:x:12:13::/odd:\n";
    const GROUP: &str = "root:x:0:\nssl:x:101:postgres,www\npostgres:x:998:\naudio:x:29:postgres\n";

    fn of(user: &str) -> Result<Identity, UserError> {
        from_text(PASSWD, GROUP, user, &[])
    }

    #[test]
    fn a_name_brings_its_groups_and_home() {
        let id = of("postgres").unwrap();
        assert_eq!((id.uid, id.gid), (999, 998));
        assert_eq!(id.groups, [29, 101]);
        assert_eq!(id.home, PathBuf::from("/var/lib/postgresql"));
    }

    #[test]
    fn forms() {
        let ids = |u: &str| of(u).map(|i| (i.uid, i.gid)).unwrap();
        assert_eq!(ids(""), (0, 0));
        assert_eq!(ids("999"), (999, 998));
        assert_eq!(ids("4242"), (4242, 0));
        assert_eq!(ids("4242:4343"), (4242, 4343));
        assert_eq!(ids("postgres:audio"), (999, 29));
        assert_eq!(ids(":ssl"), (0, 101));
        assert_eq!(
            ids("7000"),
            (12, 13),
            "a name that looks like a number is a name"
        );
        assert!(of("postgres:audio").unwrap().groups.is_empty());
    }

    #[test]
    fn additional_groups() {
        let extra = ["audio".to_owned(), "55".to_owned()];
        let id = from_text(PASSWD, GROUP, "4242", &extra).unwrap();
        assert_eq!(id.groups, [29, 55]);
    }

    #[test]
    fn refused() {
        assert!(matches!(of("nobody"), Err(UserError::NoUser(_))));
        assert!(matches!(of("root:nogroup"), Err(UserError::NoGroup(_))));
        assert!(matches!(of("4294967295"), Err(UserError::Range(_))));
        assert!(matches!(of("99999999999999"), Err(UserError::Range(_))));
    }

    #[test]
    fn links_stay_in_the_image() {
        use std::os::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        // on the host this leads to a file with root in it; in the image to nothing
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("etc/passwd")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        assert!(matches!(
            resolve(root.as_fd(), "root", &[]),
            Err(UserError::NoUser(_))
        ));
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        rustix::fs::mknodat(
            &root,
            "etc/passwd",
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert!(matches!(
            resolve(root.as_fd(), "root", &[]),
            Err(UserError::Read { .. })
        ));
    }
}
