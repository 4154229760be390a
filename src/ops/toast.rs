//! How the target compresses long values that are loaded.

use super::error::{Cause, Error, Result};
use super::options::ToastCompression;
use super::server::Server;
use crate::model::{ServerVersion, Side};

/// What each loading connection sets, and what that means, for the report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ToastSetting {
    pub statement: Option<String>,
    pub choice: Option<String>,
}

/// `default_toast_compression` at the target (14 and newer).
struct Present {
    value: String,
    /// Nobody chose it: not the server's configuration, nor the database's, the role's or the connection's.
    is_built_in: bool,
    /// What this server was built with.
    methods: Vec<String>,
}

/// Values come out of the source uncompressed and the target compresses them anew, but for columns with a method of
/// their own (`toast_compress_datum` in `toast_internals.c`). pglz, which servers up to 18 use when nobody says otherwise,
/// costs a load several times the CPU time of lz4.
///
/// # Errors
/// A method was asked for that the target does not have.
pub(super) async fn setting(target: &Server, wish: ToastCompression) -> Result<ToastSetting> {
    if wish == ToastCompression::Server {
        return Ok(ToastSetting::default());
    }
    choose(present(target).await?.as_ref(), wish).map_err(|message| {
        let error = Error::new(Cause::Refused { side: Side::Target, message });
        error.hint("leave --toast-compression out, or give it as `server`")
    })
}

async fn present(target: &Server) -> Result<Option<Present>> {
    if target.version() < ServerVersion::V14 {
        return Ok(None);
    }
    let catalog = target.catalog();
    let rows = catalog
        .rows(
            "SELECT setting, source = 'default', enumvals FROM pg_catalog.pg_settings
             WHERE name = 'default_toast_compression'",
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(Present { value: catalog.get(row, 0)?, is_built_in: catalog.get(row, 1)?, methods: catalog.get(row, 2)? }))
}

fn choose(present: Option<&Present>, wish: ToastCompression) -> Result<ToastSetting, String> {
    let has = |method: &str| present.is_some_and(|p| p.methods.iter().any(|m| m == method));
    let method = match wish {
        ToastCompression::Auto if has("lz4") && present.is_some_and(|p| p.is_built_in && p.value == "pglz") => "lz4",
        ToastCompression::Auto | ToastCompression::Server => return Ok(ToastSetting::default()),
        ToastCompression::Lz4 => "lz4",
        ToastCompression::Pglz => "pglz",
    };
    if !has(method) && (method, present.is_none()) != ("pglz", true) {
        return Err(format!("the target cannot compress with {method}"));
    }
    Ok(ToastSetting {
        statement: present.map(|_| format!("SET default_toast_compression = {method}")),
        choice: Some(format!("long values compressed with {method}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(value: &str, is_built_in: bool, methods: &[&str]) -> Present {
        Present { value: value.into(), is_built_in, methods: methods.iter().map(ToString::to_string).collect() }
    }

    fn statement(present: Option<&Present>, wish: ToastCompression) -> Option<String> {
        choose(present, wish).unwrap().statement
    }

    #[test]
    fn what_somebody_chose_for_the_server_stays() {
        let lz4 = Some("SET default_toast_compression = lz4".to_string());
        assert_eq!(statement(Some(&server("pglz", true, &["pglz", "lz4"])), ToastCompression::Auto), lz4);
        assert_eq!(statement(Some(&server("pglz", false, &["pglz", "lz4"])), ToastCompression::Auto), None);
        assert_eq!(statement(Some(&server("pglz", false, &["pglz", "lz4"])), ToastCompression::Lz4), lz4);
        assert_eq!(statement(Some(&server("pglz", true, &["pglz"])), ToastCompression::Auto), None);
        assert_eq!(statement(None, ToastCompression::Auto), None);
        assert_eq!(statement(None, ToastCompression::Pglz), None);
    }

    #[test]
    fn what_the_server_cannot_is_refused() {
        assert!(choose(Some(&server("pglz", true, &["pglz"])), ToastCompression::Lz4).is_err());
        assert!(choose(None, ToastCompression::Lz4).is_err());
    }
}
