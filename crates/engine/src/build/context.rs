//! What the client sends: unpacked where nobody else comes, and what it leaves out.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::ignore::Ignore;
use rustix::fs::{Mode, OFlags};
use store::archive_path::{UntarOptions, untar_into};
use store::pick::{self, Choice, Found};

use crate::error::Error;
use crate::images::long;
use crate::inner::Inner;
use crate::remote::Credentials;

/// Bytes of an ignore file.
const IGNORE_LIMIT: u64 = 4 << 20;

/// A build's own directory. It goes with this; a build that is killed leaves it in staging, which
/// is emptied at the next start.
#[derive(Debug)]
pub(super) struct Work {
    store: Arc<store::Store>,
    pub(super) dir: PathBuf,
    pub(super) ignore: Arc<Ignore>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.store.discard_work(&self.dir);
    }
}

impl Work {
    pub(super) fn context(&self) -> PathBuf {
        self.dir.join("context")
    }
}

/// Unpacks the context; answers with the text of the Dockerfile too.
pub(super) async fn receive(
    engine: &Arc<Inner>,
    mut tar: Box<dyn Read + Send>,
    name: String,
) -> Result<(Work, String), Error> {
    long(engine, move |inner| {
        let dir = inner.store.build_work();
        let dir = dir.map_err(Error::store("make the build's directory"))?;
        let mut work = Work {
            store: Arc::clone(&inner.store),
            dir,
            ignore: Arc::new(Ignore::new([]).map_err(|e| Error::invalid(e.to_string()))?),
        };
        let context = work.context();
        std::fs::create_dir(&context).map_err(Error::io("make the context's directory"))?;
        sys::fault::point("engine.build.context").map_err(Error::io("unpack the context"))?;
        let root = open(&context)?;
        let options = UntarOptions {
            throwaway: true,
            ..UntarOptions::default()
        };
        untar_into(root.as_fd(), "/", &mut *tar, &options).map_err(|e| {
            let error = Error::store("unpack the build context")(e);
            match error.kind() {
                crate::model::ErrorKind::Internal => Error::invalid(error.report()),
                _ => error,
            }
        })?;
        if let Some(bytes) = read(&root, ".dockerignore", IGNORE_LIMIT)? {
            let text = String::from_utf8_lossy(&bytes);
            let ignore = Ignore::parse(&text);
            let ignore = ignore.map_err(|e| Error::invalid(format!(".dockerignore: {e}")))?;
            work.ignore = Arc::new(ignore);
        }
        let limit = dockerfile::FILE_LIMIT as u64;
        let text = read(&root, &name, limit)?;
        let text = text
            .ok_or_else(|| Error::invalid(format!("Cannot locate specified Dockerfile: {name}")))?;
        let text = match String::from_utf8(text) {
            Ok(text) => text,
            // comments may be in any encoding: what else is, the parser refuses by its line
            Err(e) => {
                let bytes = e.into_bytes();
                let file = dockerfile::Dockerfile::from_bytes(&bytes);
                file.map_err(|e| Error::invalid(e.to_string()))?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
        };
        Ok((work, text))
    })
    .await
}

pub(super) fn open(dir: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty());
    opened.map_err(|e| Error::io(format!("open {}", dir.display()))(e.into()))
}

/// A file of the context, found inside it whatever its links say.
fn read(root: &OwnedFd, name: &str, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    let failed = |e| Error::store(format!("read {name}"))(e);
    let at = pick::resolve(Some(root.as_fd()), name.as_bytes()).map_err(failed)?;
    if at.found != Found::Other {
        return Ok(None);
    }
    let bytes = pick::read(root.as_fd(), &at.path, limit).map_err(failed)?;
    bytes
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("{name} is larger than {limit} bytes, or no file")))
}

/// What is taken of a context.
pub(super) fn chosen(ignore: &Ignore, path: &[u8]) -> Choice {
    let path = String::from_utf8_lossy(path);
    if path.is_empty() || !ignore.excludes(&path) {
        return Choice::Take;
    }
    match ignore.can_skip(&path) {
        true => Choice::Leave,
        false => Choice::Below,
    }
}

/// Those for the registry that an image's name says.
pub(super) fn credentials_for(name: &str, all: &BTreeMap<String, Credentials>) -> Credentials {
    let Ok(reference) = store::reference::Reference::parse(name) else {
        return Credentials::default();
    };
    let repository = reference.repository();
    let host = repository.split('/').next().unwrap_or_default();
    let known = match host {
        "docker.io" => all.get("https://index.docker.io/v1/").or(all.get(host)),
        host => all
            .get(host)
            .or_else(|| all.get(&format!("https://{host}"))),
    };
    known.cloned().unwrap_or_default()
}
