//! Shell completion. The scripts are thin: each asks this program, which knows its own tables and
//! can ask the daemon for names.

use api::container::ContainerSummary;
use api::image::ImageSummary;
use api::volume::{TrashedVolume, VolumeListResponse};

use crate::commands::{self, COMMANDS};
use crate::flags::FlagInfo;
use crate::verb::{Command, Context, Failure, Offer, Operands, Outcome, Verb};

const BASH: &str = r#"_plimsoll() {
    local line cur=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default; return ;;
            *) COMPREPLY+=("${line%%	*}") ;;
        esac
    done < <(plimsoll __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    # bash cuts words at colons: what is before the last one is on the line already
    if [[ $cur == : || ${COMP_LINE:0:COMP_POINT} == *:"${cur#:}" ]]; then
        local prefix=${COMP_LINE:0:COMP_POINT}; prefix=${prefix##* }; prefix=${prefix%"${cur#:}"}
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
}
complete -F _plimsoll plimsoll
"#;

const ZSH: &str = r#"#compdef plimsoll
_plimsoll() {
    local line
    local -a found
    while IFS= read -r line; do
        case $line in
            :files) _files; return ;;
            *) found+=("${${line%%	*}//:/\\:}:${line#*	}") ;;
        esac
    done < <(plimsoll __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe plimsoll found
}
compdef _plimsoll plimsoll
"#;

const FISH: &str = r"function __plimsoll_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (plimsoll __complete $words[2..-1] 2>/dev/null)
        if test $line = ':files'
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c plimsoll -f -a '(__plimsoll_complete)'
";

pub(crate) static COMPLETION: Verb<()> = Verb {
    path: "completion",
    aliases: &[],
    usage: "bash|zsh|fish",
    about: "Print the completion script of a shell",
    operands: Operands::Exactly(1),
    offer: Offer::Nothing,
    interspersed: true,
    flags: &[],
    run: |context, (), shells| match shells[0].as_str() {
        "bash" => context.print(BASH),
        "zsh" => context.print(ZSH),
        "fish" => context.print(FISH),
        other => Err(Failure::say(format!(
            "no completion for {other}: bash, zsh and fish have one"
        ))),
    },
};

/// `plimsoll __complete WORDS...`: candidates for the last word, one a line, each with a tab and a
/// description; `:files` hands over to the shell.
pub(crate) fn complete(context: &Context, words: &[String]) -> Outcome {
    let (current, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut text = String::new();
    for (value, about) in candidates(context, before, current) {
        if value == ":files" || value.starts_with(current) {
            text.push_str(&format!("{value}\t{about}\n"));
        }
    }
    context.print(&text.replace(":files\t\n", ":files\n"))
}

fn candidates(context: &Context, before: &[String], current: &str) -> Vec<(String, String)> {
    let Some((command, path)) = commands::find(before) else {
        return words_after(before);
    };
    let flags = command.flags();
    let given = &before[path.split(' ').count()..];
    if let Some(flag) = given.last().and_then(|w| waiting(&flags, w)) {
        return values(context, flag);
    }
    if current.starts_with('-') {
        return flags
            .iter()
            .filter(|f| !f.help.is_empty())
            .map(|f| (format!("--{}", f.long), f.help.to_owned()))
            .collect();
    }
    offers(context, command)
}

/// Commands that continue the words.
fn words_after(before: &[String]) -> Vec<(String, String)> {
    let prefix: String = before.iter().map(|w| format!("{w} ")).collect();
    let mut found: Vec<(String, String)> = COMMANDS
        .iter()
        .flat_map(|c| {
            std::iter::once(c.path())
                .chain(c.aliases().iter().copied())
                .map(|p| (p, c.about()))
        })
        .filter_map(|(path, about)| {
            let rest = path.strip_prefix(prefix.as_str())?;
            Some(match rest.split_once(' ') {
                Some((group, _)) => (group.to_owned(), format!("Manage {group}")),
                None => (
                    rest.to_owned(),
                    about.lines().next().unwrap_or_default().to_owned(),
                ),
            })
        })
        .collect();
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    found
}

/// The flag whose value comes next.
fn waiting<'f>(flags: &'f [FlagInfo], word: &str) -> Option<&'f FlagInfo> {
    let takes = |f: &&FlagInfo| !f.ty.is_empty();
    if let Some(long) = word.strip_prefix("--") {
        return flags.iter().filter(takes).find(|f| f.long == long);
    }
    let short = word.strip_prefix('-')?.chars().last()?;
    flags.iter().filter(takes).find(|f| f.short == Some(short))
}

fn values(context: &Context, flag: &FlagInfo) -> Vec<(String, String)> {
    let fixed = |list: &[&str]| {
        list.iter()
            .map(|v| ((*v).to_owned(), String::new()))
            .collect()
    };
    match flag.long {
        "env-file" | "label-file" | "input" | "output" | "cidfile" | "add" => files(),
        "network" => fixed(&["none", "host"]),
        "restart" => fixed(&["no", "on-failure", "always", "unless-stopped"]),
        "pull" => fixed(&["always", "missing", "never"]),
        "log-driver" => fixed(&["json-file", "none"]),
        "format" => fixed(&["json", "table"]),
        "type" => fixed(&["container", "image", "volume"]),
        "signal" | "stop-signal" => fixed(&["TERM", "KILL", "INT", "HUP", "QUIT", "USR1", "USR2"]),
        "cgroupns" => fixed(&["host", "private"]),
        "volume" => {
            let mut all = volumes(context);
            all.extend(files());
            all
        }
        _ => files(),
    }
}

fn files() -> Vec<(String, String)> {
    vec![(":files".to_owned(), String::new())]
}

fn offers(context: &Context, command: &dyn Command) -> Vec<(String, String)> {
    match command.offer() {
        Offer::Nothing => Vec::new(),
        Offer::Files => files(),
        Offer::Containers => containers(context, true),
        Offer::RunningContainers => containers(context, false),
        Offer::Images => images(context),
        Offer::Volumes => volumes(context),
        Offer::Networks => networks(context),
        Offer::TrashedVolumes => {
            let list: Vec<TrashedVolume> = context
                .client
                .get_json("/plimsoll/volumes/trash")
                .unwrap_or_default();
            list.into_iter().map(|v| (v.name, v.removed_at)).collect()
        }
        Offer::ContainersImagesVolumes => {
            let mut all = containers(context, true);
            all.extend(images(context));
            all.extend(volumes(context));
            all
        }
    }
}

// a daemon that does not answer offers nothing: completion says no errors

fn containers(context: &Context, all: bool) -> Vec<(String, String)> {
    let path = if all {
        "/containers/json?all=1"
    } else {
        "/containers/json"
    };
    let list: Vec<ContainerSummary> = context.client.get_json(path).unwrap_or_default();
    list.into_iter()
        .filter_map(|c| {
            let name = c.names.first()?.trim_start_matches('/').to_owned();
            Some((name, format!("{} ({})", c.image, c.status)))
        })
        .collect()
}

fn images(context: &Context) -> Vec<(String, String)> {
    let list: Vec<ImageSummary> = context.client.get_json("/images/json").unwrap_or_default();
    list.into_iter()
        .flat_map(|i| i.repo_tags)
        .map(|tag| {
            (
                tag.strip_suffix(":latest").unwrap_or(&tag).to_owned(),
                "image".to_owned(),
            )
        })
        .collect()
}

fn volumes(context: &Context) -> Vec<(String, String)> {
    let answer: VolumeListResponse = context.client.get_json("/volumes").unwrap_or_default();
    answer
        .volumes
        .into_iter()
        .map(|v| (v.name, "volume".to_owned()))
        .collect()
}

fn networks(context: &Context) -> Vec<(String, String)> {
    let list: Vec<api::network::Network> = context.client.get_json("/networks").unwrap_or_default();
    list.into_iter()
        .map(|n| (n.name, "network".to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::http::Client;

    fn complete_words(words: &[&str]) -> String {
        let context = Context {
            client: Client::new(Endpoint::Unix("/nonexistent".into()), false),
            words: String::new(),
        };
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        let (current, before) = words.split_last().expect("a word");
        candidates(&context, before, current)
            .into_iter()
            .map(|c| c.0)
            .filter(|c| c == ":files" || c.starts_with(current.as_str()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn words_flags_and_values() {
        for (words, want) in [
            (
                &["volume", ""][..],
                "create inspect list ls prune remove restore rm",
            ),
            (&["vol"], "volume"),
            (&["ren"], "rename"),
            (&["run", "--rea"], "--read-only"),
            (&["run", "--network", ""], "none host"),
            (&["run", "-it", "--env-file", ""], ":files"),
            (&["load", "-i", ""], ":files"),
            (&["stop", ""], ""),
        ] {
            assert_eq!(complete_words(words), want, "{words:?}");
        }
    }
}
