//! What the prunes have in common: filters, and pruning of containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::container::Command;
use crate::error::Error;
use crate::inner::{Inner, ask};
use crate::model::Phase;
use crate::views::{Filters, Pruned, RemoveOptions};

/// Refuses filters that would silently not filter.
pub(crate) fn known(filters: &Filters, names: &[&str]) -> Result<(), Error> {
    match filters.keys().find(|k| !names.contains(&k.as_str())) {
        Some(other) => Err(Error::invalid(format!("invalid filter '{other}'"))),
        None => Ok(()),
    }
}

pub(crate) fn flag(filters: &Filters, name: &str) -> Result<Option<bool>, Error> {
    let Some(value) = filters.get(name).and_then(|v| v.first()) else {
        return Ok(None);
    };
    match value.as_str() {
        "1" | "true" | "True" | "TRUE" | "t" | "T" => Ok(Some(true)),
        "0" | "false" | "False" | "FALSE" | "f" | "F" => Ok(Some(false)),
        other => Err(Error::invalid(format!(
            "invalid filter '{name}={other}' (want true or false)"
        ))),
    }
}

/// `label=k`, `label=k=v`, and their opposites.
pub(crate) fn labels_match(filters: &Filters, labels: &BTreeMap<String, String>) -> bool {
    let has = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    };
    let list = |name: &str| filters.get(name).into_iter().flatten();
    list("label").all(has) && !list("label!").any(has)
}

/// `until=` a time, a number of seconds since 1970, or an age (`24h`, `10m`): what is not older
/// stays. Answers the limit.
pub(crate) fn until(filters: &Filters) -> Result<Option<jiff::Timestamp>, Error> {
    let Some(text) = filters.get("until").and_then(|v| v.first()) else {
        return Ok(None);
    };
    let wrong = || {
        Error::invalid(format!(
            "invalid filter 'until={text}' (want a time, seconds since 1970, or an age as 24h)"
        ))
    };
    if let Ok(seconds) = text.parse::<i64>() {
        return jiff::Timestamp::from_second(seconds)
            .map(Some)
            .map_err(|_| wrong());
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Some(time));
    }
    let age: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    jiff::Timestamp::now()
        .checked_sub(age)
        .map(Some)
        .map_err(|_| wrong())
}

/// Whether something made at `created` may go. What cannot be read as a time stays.
pub(crate) fn older(created: &str, limit: Option<jiff::Timestamp>) -> bool {
    limit.is_none_or(|limit| {
        created
            .parse::<jiff::Timestamp>()
            .is_ok_and(|made| made < limit)
    })
}

pub(crate) async fn containers(engine: &Arc<Inner>, filters: &Filters) -> Result<Pruned, Error> {
    known(filters, &["until", "label", "label!"])?;
    let limit = until(filters)?;
    let mut pruned = Pruned::default();
    for entry in engine.containers.all() {
        let view = entry.view.load_full();
        let idle = matches!(view.phase, Phase::Created | Phase::Exited);
        if !idle
            || !labels_match(filters, &view.record.spec.labels)
            || !older(&view.record.created, limit)
        {
            continue;
        }
        let upper = view.paths.upper.clone();
        let size = engine
            .blocking("measure the container", move |_| {
                Ok(crate::sizes::tree(&upper))
            })
            .await?;
        let options = RemoveOptions::default();
        let removed = ask(&entry, |reply| Command::Remove { options, reply }).await;
        // started or removed since it was chosen: it stays, or is gone already
        if removed.is_ok() {
            pruned.containers.push(view.record.id.clone());
            pruned.space_reclaimed += size;
        }
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(list: &[(&str, &str)]) -> Filters {
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), vec![(*v).to_owned()]))
            .collect()
    }

    #[test]
    fn labels() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        for (list, want) in [
            (&[("label", "a")][..], true),
            (&[("label", "a=1")], true),
            (&[("label", "a=2")], false),
            (&[("label!", "a")], false),
            (&[("label!", "b")], true),
            (&[], true),
        ] {
            assert_eq!(labels_match(&filters(list), &labels), want, "{list:?}");
        }
    }

    #[test]
    fn times() {
        assert!(until(&filters(&[("until", "24h")])).unwrap().is_some());
        assert!(
            until(&filters(&[("until", "1700000000")]))
                .unwrap()
                .is_some()
        );
        assert!(
            until(&filters(&[("until", "2026-01-02T03:04:05Z")]))
                .unwrap()
                .is_some()
        );
        assert!(until(&filters(&[("until", "soon")])).is_err());
        let hour_ago = until(&filters(&[("until", "1h")])).unwrap();
        assert!(older("2020-01-01T00:00:00Z", hour_ago));
        assert!(!older(&crate::inner::now(), hour_ago));
        assert!(!older("nonsense", hour_ago));
    }
}
