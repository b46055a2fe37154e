//! psi-manual: writes man pages and shell completions below a directory, e.g. `/usr/share`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [directory] = arguments.as_slice() else {
        eprintln!("psi-manual: name one directory, e.g. `psi-manual /usr/share`");
        return ExitCode::from(64);
    };
    match psi_manual::write(Path::new(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "psi-manual: cannot write below {}: {error}",
                directory.display()
            );
            ExitCode::from(74)
        }
    }
}
