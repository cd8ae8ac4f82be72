//! Binds whose files belong to other ids in the container (`uidMappings` of a mount, `idmap`).

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType};

use super::namespaces::{check_maps, map_text};
use super::{Namespaces, PlanError, PlanInput, c_path, invalid};
use crate::ops::MappedTree;

/// A tree of the host that the parent clones and maps: the right to do so comes with the file
/// system, and a container's user namespace doesn't have it.
pub(super) struct Tree {
    pub(super) step: u32,
    source: CString,
    recursive: bool,
    map_recursive: bool,
    namespace: Option<CString>,
    uid_map: CString,
    gid_map: CString,
}

impl Tree {
    pub(super) fn record(&self) -> MappedTree<'_> {
        MappedTree {
            step: self.step,
            source: &self.source,
            recursive: self.recursive,
            map_recursive: self.map_recursive,
            namespace: self.namespace.as_deref(),
            uid_map: &self.uid_map,
            gid_map: &self.gid_map,
            _life: std::marker::PhantomData,
        }
    }
}

/// What a mount says about ids.
#[derive(Debug, Clone, Default)]
pub(super) struct Ids {
    pub(super) uids: Vec<LinuxIdMapping>,
    pub(super) gids: Vec<LinuxIdMapping>,
    /// `idmap`, `ridmap`.
    pub(super) option: bool,
    pub(super) recursive: bool,
}

impl Ids {
    pub(super) fn asked(&self) -> bool {
        self.option || !self.uids.is_empty() || !self.gids.is_empty()
    }

    /// The tree to be mapped. Without maps of its own a mount has those of the container's user
    /// namespace, so that the container's root owns what root owns.
    pub(super) fn tree(
        &self,
        what: &str,
        step: u32,
        source: &Path,
        recursive: bool,
        input: &PlanInput<'_>,
        namespaces: &Namespaces<'_>,
    ) -> Result<Tree, PlanError> {
        if self.uids.is_empty() != self.gids.is_empty() {
            return Err(invalid(what, "it needs both uidMappings and gidMappings"));
        }
        if !input.facts.process.has("CAP_SYS_ADMIN") {
            return Err(PlanError::Host {
                what: what.to_owned(),
                why: "ids of a mount can only be mapped with CAP_SYS_ADMIN".to_owned(),
            });
        }
        if !input.facts.mount.mount_setattr {
            return Err(PlanError::Host {
                what: what.to_owned(),
                why: "its kernel (before 5.12) has no mapped mounts".to_owned(),
            });
        }
        let mut namespace = None;
        let (mut uids, mut gids) = (self.uids.as_slice(), self.gids.as_slice());
        let linux = input.spec.linux().clone().unwrap_or_default();
        if uids.is_empty() {
            let joined = namespaces.path(LinuxNamespaceType::User);
            namespace = joined.map(c_path).transpose()?;
            uids = linux.uid_mappings().as_deref().unwrap_or_default();
            gids = linux.gid_mappings().as_deref().unwrap_or_default();
            if namespace.is_none() && uids.is_empty() {
                let why = "idmap without uidMappings and gidMappings needs a user namespace";
                return Err(invalid(what, why));
            }
        }
        check_maps(what, uids)?;
        check_maps(what, gids)?;
        Ok(Tree {
            step,
            source: c_path(source)?,
            recursive,
            map_recursive: self.recursive,
            namespace,
            uid_map: map_text(uids)?,
            gid_map: map_text(gids)?,
        })
    }
}
