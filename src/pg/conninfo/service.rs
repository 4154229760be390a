//! Service files: settings under a name (PostgreSQL's documentation, "The Connection Service File").

use std::path::{Path, PathBuf};

use super::parse::Pairs;
use super::{Env, Problem, keyword};

/// Where a packaged libpq looks when PGSYSCONFDIR is not set: Debian's directory, then that of most others.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/postgresql-common", "/etc"];

/// The settings of `service`, and the file they come from.
pub(super) fn find(service: &str, file: Option<&str>, env: &dyn Env) -> Result<(Pairs, PathBuf), Problem> {
    let files = candidates(file, env);
    for path in &files {
        let Ok(text) = std::fs::read(path) else { continue };
        let text = String::from_utf8_lossy(&text);
        if let Some(pairs) = read_section(&text, service, path)? {
            return Ok((pairs, path.clone()));
        }
    }
    let looked: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    Err(Problem::new(format!("there is no service \"{service}\"")).hint(format!("looked in {}", looked.join(", "))))
}

fn candidates(file: Option<&str>, env: &dyn Env) -> Vec<PathBuf> {
    let own = match file {
        Some(file) => Some(PathBuf::from(file)),
        None => env.home().map(|home| home.join(".pg_service.conf")),
    };
    let system = match env.var("PGSYSCONFDIR") {
        Some(directory) => vec![PathBuf::from(directory)],
        None => SYSTEM_DIRECTORIES.iter().map(PathBuf::from).collect(),
    };
    own.into_iter().chain(system.into_iter().map(|directory| directory.join("pg_service.conf"))).collect()
}

/// The settings of one section; `None` where the file has no such section. The first value of a keyword counts.
fn read_section(text: &str, service: &str, path: &Path) -> Result<Option<Pairs>, Problem> {
    let mut section = None;
    for (number, line) in text.lines().enumerate() {
        let place = || format!("{}, line {}", path.display(), number + 1);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if section.is_some() {
                break;
            }
            if name.strip_suffix(']') == Some(service) {
                section = Some(Pairs::new());
            }
        } else if let Some(pairs) = &mut section {
            if line.starts_with("ldap") {
                return Err(Problem::unsupported(format!("{}: LDAP look-ups are not supported", place())));
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| Problem::new(format!("{}: there is no \"=\"", place())))?;
            let name = keyword::known(name)
                .map_err(|problem| Problem { message: format!("{}: {}", place(), problem.message), ..problem })?;
            if matches!(name, "service" | "servicefile") {
                return Err(Problem::new(format!("{}: a service cannot name another one", place())));
            }
            if pairs.iter().all(|(known, _)| *known != name) {
                pairs.push((name, value.to_owned()));
            }
        }
    }
    Ok(section)
}
