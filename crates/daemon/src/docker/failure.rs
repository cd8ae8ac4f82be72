//! Every error's status and body: the one place where the engine's classes become HTTP.

use engine::model::ErrorKind;
use hyper::{Response, StatusCode};

use super::answer::{Body, json};

/// Why a request was refused or failed, for the client.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        // dockerd answers 400 where the program can't be run; its clients read the message for 126
        // and 127
        ErrorKind::InvalidArgument | ErrorKind::CannotRun => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// An option or endpoint that is not there, by its name.
    pub(crate) fn not_built(what: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} is not built yet"),
        )
    }

    pub(crate) fn response(self) -> Response<Body> {
        if self.status == StatusCode::NOT_MODIFIED {
            return super::answer::empty(self.status);
        }
        json(
            self.status,
            &api::ErrorResponse {
                message: self.message,
            },
        )
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        let message = error.report();
        if error.kind() == ErrorKind::Internal {
            tracing::error!("{message}");
        }
        Self::new(status(error.kind()), message)
    }
}

impl From<api::DecodeError> for Failure {
    fn from(error: api::DecodeError) -> Self {
        Self::invalid(crate::chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_dockers_statuses() {
        for (kind, code) in [
            (ErrorKind::InvalidArgument, 400),
            (ErrorKind::CannotRun, 400),
            (ErrorKind::Unauthorized, 401),
            (ErrorKind::Forbidden, 403),
            (ErrorKind::NotFound, 404),
            (ErrorKind::Conflict, 409),
            (ErrorKind::NotModified, 304),
            (ErrorKind::Internal, 500),
            (ErrorKind::Unsupported, 501),
            (ErrorKind::Timeout, 504),
            (ErrorKind::NoSpace, 507),
        ] {
            assert_eq!(status(kind).as_u16(), code, "{kind:?}");
        }
    }

    #[test]
    fn causes_are_told() {
        let error = engine::Error::caused(
            ErrorKind::NotFound,
            "open the record",
            std::io::Error::other("gone"),
        );
        assert_eq!(Failure::from(error).message, "open the record: gone");
    }
}
