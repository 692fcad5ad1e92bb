//! `accctl help`: a command, or what the reference says of a parameter, function, variable, event or management command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use crate::Outcome;

/// The pages with a section for everything that is declared.
const REFERENCE: [&str; 7] = [
    include_str!("../../../docs/reference/parameters.md"),
    include_str!("../../../docs/reference/flags.md"),
    include_str!("../../../docs/reference/kamailio.md"),
    include_str!("../../../docs/reference/functions.md"),
    include_str!("../../../docs/reference/variables.md"),
    include_str!("../../../docs/reference/events.md"),
    include_str!("../../../docs/reference/commands.md"),
];

#[derive(clap::Args)]
pub struct Help {
    /// A command of accctl, or a name from a configuration: journal_full, do_accounting
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// `cli`: all commands.
pub fn run(o: &Help, mut cli: clap::Command) -> Outcome {
    cli.build();
    let Some(name) = o.name.as_deref() else { return Ok((cli.render_long_help().to_string(), ExitCode::SUCCESS)) };
    if let Some(command) = cli.find_subcommand_mut(name) {
        return Ok((command.render_long_help().to_string(), ExitCode::SUCCESS));
    }
    let section = REFERENCE.iter().find_map(|page| section(page, name));
    let section =
        section.ok_or_else(|| format!("{name} is neither a command of accctl nor a parameter, function, variable, event or command of the module"))?;
    Ok((section, ExitCode::SUCCESS))
}

/// The section with this name in its heading; links are replaced by their text.
fn section(page: &str, name: &str) -> Option<String> {
    let name = name.trim_start_matches('$');
    let is = |heading: &str| {
        let heading = heading.trim_start_matches(['$', '(']);
        heading.strip_prefix(name).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    };
    let mut lines = page.lines().skip_while(|line| !line.strip_prefix("#### ").is_some_and(is));
    let mut out = lines.next()?.trim_start_matches("#### ").to_string() + "\n";
    let mut code = false;
    for line in lines {
        code ^= line.starts_with("```");
        if !code && line.starts_with('#') {
            break;
        }
        if !line.starts_with("<!--") {
            out += line;
            out.push('\n');
        }
    }
    // Marks of generated text are between empty lines.
    while out.contains("\n\n\n") {
        out = out.replace("\n\n\n", "\n\n");
    }
    Some(plain(out.trim_end()) + "\n")
}

/// `[text](address)` is text.
fn plain(section: &str) -> String {
    let mut out = String::new();
    let mut rest = section;
    while let Some((before, link)) = rest.split_once("](") {
        let Some(((start, text), (_, after))) = before.rsplit_once('[').zip(link.split_once(')')) else { break };
        out += start;
        out += text;
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use acc::declaration::{COMMANDS, Event, FUNCTIONS, PARAMS};
    use clap::Command;

    use super::*;

    #[test]
    fn everything_declared_is_explained() {
        let cli = Command::new("accctl").subcommand(Command::new("report").about("Show calls"));
        let of = |name: &str| run(&Help { name: Some(name.into()) }, cli.clone());
        let names = PARAMS.iter().map(|p| p.name).chain(FUNCTIONS.iter().map(|f| f.name)).chain(COMMANDS.iter().map(|c| c.name));
        for name in names.chain(Event::ALL.iter().map(|e| e.name())).chain(["$acc_extra", "acc_leg", "acc_current_leg"]) {
            let (text, _) = of(name).unwrap();
            let first = text.lines().next().unwrap();
            assert!(first.contains(name) && text.lines().count() > 2 && !text.contains("](") && !text.contains("<!--"), "{text}");
        }
        assert!(of("report").unwrap().0.contains("Show calls") && of("journal").is_err());
    }
}
