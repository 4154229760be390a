use std::io::Write;
use std::panic::PanicHookInfo;

/// The exit code of a bug.
const INTERNAL: i32 = 6;

/// A bug ends the process at once, on whatever thread it shows: the servers roll back what was not committed, and
/// no half of the run goes on without the other.
pub fn install() {
    std::panic::set_hook(Box::new(|info| {
        // Neither the printer's locks nor the bars can be relied on here. A dead terminal is no reason to panic again.
        let _ = write!(std::io::stderr(), "{}", report(info));
        #[expect(clippy::exit, reason = "a panic hook has nowhere to return to")]
        std::process::exit(INTERNAL);
    }));
}

fn report(info: &PanicHookInfo<'_>) -> String {
    let message = info
        .payload()
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| info.payload().downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let place = info.location().map_or_else(String::new, |l| format!(" ({}:{})", l.file(), l.line()));
    format!(
        "\nerror: internal error: {}{place}\n  hint: this is a bug in pgconvoy {}; please report it with this message\n",
        pgconvoy::model::redact(&message),
        env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// Runs this test binary as a child in which the hook is installed.
    #[test]
    fn a_panic_on_any_thread_exits_with_6_and_asks_for_a_report() {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::panics::tests::child", "--nocapture"])
            .env("PGCONVOY_TEST_CHILD", "panic")
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{stderr}");
        assert!(stderr.contains("internal error: the wheel came off postgres://u:***@h"), "{stderr}");
        assert!(stderr.contains("please report"), "{stderr}");
    }

    #[test]
    fn child() {
        if std::env::var_os("PGCONVOY_TEST_CHILD").is_some_and(|v| v == "panic") {
            super::install();
            let thread = std::thread::spawn(|| panic!("the wheel came off {}", "postgres://u:secret@h"));
            let _ = thread.join();
        }
    }
}
