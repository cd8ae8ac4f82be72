//! The list of containers, of which there may be ten thousand: each line is written once for as long as its
//! container does not change, but for its status, which tells how long ago; and the answer is put together
//! as the client takes it, so that a list costs no memory of its size.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use engine::ContainerView;
use hyper::{Response, StatusCode};

use super::answer::{Body, stream, with_type};
use super::translate::summary;

/// What is handed to the connection at a time.
const PART: usize = 64 * 1024;

/// All of them, in the order given.
pub(super) fn answer(views: Vec<Arc<ContainerView>>) -> Response<Body> {
    let mut parts = parts(views);
    let first = parts.next().unwrap_or_default();
    if parts.ended {
        return with_type(StatusCode::OK, "application/json", Body::Full(first));
    }
    let all = std::iter::once(first).chain(parts).map(Ok);
    stream("application/json", futures_util::stream::iter(all))
}

fn parts(views: Vec<Arc<ContainerView>>) -> Parts {
    Parts {
        views: views.into_iter(),
        begun: false,
        ended: false,
    }
}

/// The list's text, a part at a time.
struct Parts {
    views: std::vec::IntoIter<Arc<ContainerView>>,
    begun: bool,
    ended: bool,
}

impl Iterator for Parts {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        // most lists are short
        let mut part = BytesMut::with_capacity(PART.min(self.views.len() * 1024 + 16));
        while part.len() < PART {
            let Some(view) = self.views.next() else {
                if !self.begun {
                    part.put_u8(b'[');
                }
                // Go's encoder ends a document with a newline
                part.put_slice(b"]\n");
                self.ended = true;
                break;
            };
            part.put_u8(if self.begun { b',' } else { b'[' });
            self.begun = true;
            line(&view, &mut part);
        }
        Some(part.freeze())
    }
}

fn line(view: &ContainerView, out: &mut BytesMut) {
    let [before, after] = view.rendered.get_or_init(|| around_status(view));
    out.put_slice(before);
    // words and numbers: nothing in it needs to be escaped
    out.put_slice(summary::status(view).as_bytes());
    out.put_slice(after);
}

/// A line's text up to its status, and from it on.
fn around_status(view: &ContainerView) -> [Bytes; 2] {
    let mut summary = summary::container(view);
    // its id was not known to whoever gave it labels: in quotes it stands nowhere else as a status
    summary.status.clone_from(&summary.id);
    let mark = format!("\"Status\":\"{}\"", summary.id);
    let text = super::answer::json_line(&summary);
    let text = text.trim_ascii_end();
    let found = text
        .windows(mark.len())
        .position(|w| w == mark.as_bytes())
        .map(|at| at + mark.len() - summary.id.len() - 1);
    let Some(at) = found else {
        unreachable!("a line without its status")
    };
    let (before, after) = (&text[..at], &text[at + summary.id.len()..]);
    [
        Bytes::copy_from_slice(before),
        Bytes::copy_from_slice(after),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_summaries_are() {
        let mut view = crate::docker::translate::tests::view(Default::default());
        let record = Arc::make_mut(&mut view.record);
        let labels = [
            ("Status", ""),
            ("x", "\"Status\":\"\""),
            ("\"Status\":\"", "y"),
        ];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned()));
        record.spec.labels.extend(labels);
        record.spec.host.annotations = record.spec.labels.clone();
        let view = Arc::new(view);
        for count in [0, 1, 2, 300] {
            let views = vec![Arc::clone(&view); count];
            let all: Vec<Bytes> = parts(views).collect();
            assert!(count < 300 || all.len() > 1, "more than a part");
            let text = all.concat();
            assert!(text.ends_with(b"]\n"));
            let got: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let want = vec![summary::container(&view); count];
            assert_eq!(got, serde_json::to_value(want).unwrap());
        }
    }
}
