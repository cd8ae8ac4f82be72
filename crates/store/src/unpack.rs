//! (extractor)
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry {name}: {what}")]
    Entry { name: String, what: String },
}
