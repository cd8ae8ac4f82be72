//! Taking names and images away, with Docker's rules.
//!
//! - A name is taken away if the image has others; the image goes with its last name.
//! - An id removes the image with its only name; with several names only by force.
//! - An image that a container stands on keeps its content: without force that is a conflict, with
//!   force its names go and the image stays, unless a running container uses it.

use rusqlite::{Connection, OptionalExtension};

use super::ImageError;
use super::index::{names_of, resolve};
use crate::Store;
use crate::reference::{Reference, familiar};

/// How [`Store::image_remove`] goes about it.
#[derive(Debug, Clone, Default)]
pub struct RemoveOptions {
    pub force: bool,
    /// Ids of the containers that run now.
    pub running: Vec<String>,
}

/// What a removal did, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The name, as shown to users.
    Untagged(String),
    /// An image's id or a layer's chain id.
    Deleted(String),
}

impl Store {
    /// Removes a name, and the image with its last name. Durable when it returns; what nothing
    /// refers to any more is in the trash then.
    ///
    /// # Errors
    /// No such image, or it is in use.
    pub fn image_remove(
        &self,
        name: &str,
        options: &RemoveOptions,
    ) -> Result<Vec<Removed>, ImageError> {
        let outcome = self.freeing(ImageError::is_out_of_space, || {
            let (text, wish) = (name.to_owned(), options.clone());
            self.meta().write(move |db| remove_rows(db, &text, &wish))
        })?;
        self.image_records_are_behind();
        self.sweep(&outcome.chains, &outcome.blobs)?;
        Ok(outcome.removed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) removed: Vec<Removed>,
    /// Candidates for the sweep.
    pub(super) chains: Vec<String>,
    pub(super) blobs: Vec<String>,
}

fn remove_rows(
    db: &Connection,
    text: &str,
    options: &RemoveOptions,
) -> Result<Outcome, ImageError> {
    let id = resolve(db, text)?;
    let names = names_of(db, &id)?;
    let named = written_name(&names, text, &id);
    let mut outcome = Outcome::default();
    if let Some(name) = &named {
        let tags_left = names.iter().any(|n| n != name && !n.contains('@'));
        if tags_left {
            untag(db, name, &mut outcome)?;
            return Ok(outcome);
        }
    } else if names.iter().filter(|n| !n.contains('@')).count() > 1 && !options.force {
        return Err(ImageError::ManyNames {
            name: short(text),
            names: names
                .iter()
                .map(|n| familiar(n))
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    let keep = user_of(db, &id, text, options)?;
    for name in &names {
        untag(db, name, &mut outcome)?;
    }
    if !keep {
        delete(db, &id, &mut outcome)?;
    }
    Ok(outcome)
}

/// The name in full, if the user wrote a name rather than an id.
fn written_name(names: &[String], text: &str, id: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let reference = Reference::parse(text).ok()?.with_default_tag();
    let full = match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.repository()),
        None => reference.to_string(),
    };
    if names.contains(&full) {
        return Some(full);
    }
    debug_assert!(id["sha256:".len()..].starts_with(hex));
    None
}

/// Whether a container needs the image, so that it must stay although its names go.
fn user_of(
    db: &Connection,
    id: &str,
    text: &str,
    options: &RemoveOptions,
) -> Result<bool, ImageError> {
    let containers: Vec<String> = db
        .prepare_cached("SELECT id FROM containers WHERE image = ?1 ORDER BY id")?
        .query_map([id], |r| r.get(0))?
        .collect::<Result<_, _>>()?;
    let running = containers.iter().find(|c| options.running.contains(c));
    if let Some(container) = running {
        return Err(ImageError::InUse {
            name: short(text),
            container: short(container),
            state: "running",
            advice: "stop and remove it first",
        });
    }
    match containers.first() {
        Some(container) if !options.force => Err(ImageError::InUse {
            name: short(text),
            container: short(container),
            state: "stopped",
            advice: "remove it first, or use force to take only the names away",
        }),
        other => Ok(other.is_some()),
    }
}

fn untag(db: &Connection, name: &str, outcome: &mut Outcome) -> Result<(), ImageError> {
    db.prepare_cached("DELETE FROM image_names WHERE name = ?1")?
        .execute([name])?;
    outcome.removed.push(Removed::Untagged(familiar(name)));
    Ok(())
}

pub(super) fn delete(db: &Connection, id: &str, outcome: &mut Outcome) -> Result<(), ImageError> {
    let manifest: Option<String> = db
        .prepare_cached("SELECT manifest FROM images WHERE id = ?1")?
        .query_row([id], |r| r.get(0))
        .optional()?;
    let rows: Vec<(String, String)> = db
        .prepare_cached(
            "SELECT chain, blob FROM image_layers WHERE image = ?1 ORDER BY position DESC",
        )?
        .query_map([id], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    db.prepare_cached("DELETE FROM image_layers WHERE image = ?1")?
        .execute([id])?;
    db.prepare_cached("DELETE FROM images WHERE id = ?1")?
        .execute([id])?;
    db.prepare_cached("DELETE FROM build_steps WHERE image = ?1")?
        .execute([id])?;
    outcome.removed.push(Removed::Deleted(id.to_owned()));
    outcome.blobs.push(id.to_owned());
    outcome.blobs.extend(manifest);
    let mut used =
        db.prepare_cached("SELECT EXISTS (SELECT 1 FROM image_layers WHERE chain = ?1)")?;
    for (chain, blob) in rows {
        if !used.query_row([&chain], |r| r.get::<_, bool>(0))? {
            db.prepare_cached("DELETE FROM layers WHERE chain = ?1")?
                .execute([&chain])?;
            outcome.removed.push(Removed::Deleted(chain.clone()));
            outcome.chains.push(chain);
        }
        outcome.blobs.push(blob);
    }
    Ok(())
}

/// Ids are cut to what Docker shows; names stay.
fn short(text: &str) -> String {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        hex[..12].to_owned()
    } else {
        text.to_owned()
    }
}
