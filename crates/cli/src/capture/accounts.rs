//! The users and groups of an image: root, nobody, and those asked for, as the host has them.

use super::CaptureError;

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
}

/// The text of passwd and group, and the accounts asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
    pub(crate) users: Vec<Account>,
}

const ROOT: &str = "root:x:0:0:root:/root:/bin/sh\n";
const NOBODY: &str = "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";

/// Takes the lines of `names` (users) from the host's files.
pub(crate) fn select(
    host_passwd: &str,
    host_group: &str,
    names: &[String],
) -> Result<Accounts, CaptureError> {
    let mut out = Accounts {
        passwd: format!("{ROOT}{NOBODY}"),
        group: "root:x:0:\nnogroup:x:65534:\n".to_owned(),
        users: Vec::new(),
    };
    let mut groups: Vec<&str> = Vec::new();
    for name in names {
        let missing = || CaptureError::NoUser(name.clone());
        let line = host_passwd
            .lines()
            .find(|l| l.split(':').next() == Some(name))
            .ok_or_else(missing)?;
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, uid, gid, _, home, ..] = fields[..] else {
            return Err(missing());
        };
        let account = Account {
            uid: uid.parse().map_err(|_| missing())?,
            gid: gid.parse().map_err(|_| missing())?,
            home: home.to_owned(),
        };
        if !matches!(name.as_str(), "root" | "nobody") && !out.users.contains(&account) {
            out.passwd.push_str(&format!("{line}\n"));
        }
        for group in host_group.lines() {
            let fields: Vec<&str> = group.split(':').collect();
            let [group_name, _, id, members] = fields[..] else {
                continue;
            };
            let own = id == gid || members.split(',').any(|m| m == name);
            if own && !matches!(group_name, "root" | "nogroup") && !groups.contains(&group) {
                groups.push(group);
            }
        }
        out.users.push(account);
    }
    for group in groups {
        out.group
            .push_str(&format!("{}\n", only_known(group, names)));
    }
    Ok(out)
}

/// A group's line without members that the image does not have.
fn only_known(line: &str, names: &[String]) -> String {
    match line.rsplit_once(':') {
        Some((head, members)) => {
            let kept: Vec<&str> = members
                .split(',')
                .filter(|m| names.iter().any(|n| n == m))
                .collect();
            format!("{head}:{}", kept.join(","))
        }
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_with_their_groups() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\npg:x:101:102:PostgreSQL,,,:/var/lib/pg:/bin/bash\n";
        let group = "root:x:0:\nssl-cert:x:110:pg,www\npg:x:102:\nother:x:5:x\n";
        let chosen = select(passwd, group, &["pg".to_owned()]).expect("found");
        insta::assert_snapshot!(format!("{}{}", chosen.passwd, chosen.group), @r"
        root:x:0:0:root:/root:/bin/sh
        nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
        pg:x:101:102:PostgreSQL,,,:/var/lib/pg:/bin/bash
        root:x:0:
        nogroup:x:65534:
        ssl-cert:x:110:pg
        pg:x:102:
        ");
        assert_eq!(chosen.users[0].uid, 101);
        assert!(select(passwd, group, &["nope".to_owned()]).is_err());
    }
}
