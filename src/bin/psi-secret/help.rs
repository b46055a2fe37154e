//! What `--help` says. The man page and the completions are made from the same text.
//!
//! So it has one shape: a heading ends with a colon; below it stand entries, indented by two
//! blanks, each with its text after two blanks or more, or on the next lines, which are indented
//! further.

/// The whole text.
pub const HELP: &str = "\
Podman's shell driver for secrets: asks psi-serve over its Unix socket.

Podman runs it whenever a container needs a secret, with the secret's id in $SECRET_ID. Whatever
it can't do, it says on one line of standard error: which secret, why, and the next command.

While psi-serve restarts, psi-secret waits up to 30 s; it gives up after 75 s in all.

Usage: psi-secret <COMMAND> [OPTIONS]

Commands:
  lookup  write the value of secret $SECRET_ID to standard output, byte for byte
  store   keep the mapping on standard input for secret $SECRET_ID
  delete  forget the mapping of secret $SECRET_ID
  list    write the ids that have a mapping, one a line

Options:
  --socket <PATH>      psi-serve's socket [default: $PSI_SOCKET, else /run/psi/psi.sock as root,
                       $XDG_RUNTIME_DIR/psi/psi.sock otherwise]
  --token-file <PATH>  file, mode 0600, with psi-serve's socket token
                       [default: /etc/psi/socket-token as root, if it exists]
  -h, --help           print this
  -V, --version        print the version

Examples:
  psi-secret list
      Which secrets psi-serve knows.
  podman secret inspect --format '{{.ID}}' myapp--DB_HOST
      The id of a secret.
  SECRET_ID=0123456789abcdef012345678 psi-secret lookup
      What a container gets for the secret of that id.
  podman secret inspect --format '{{.Spec.Driver.Options}}' myapp--DB_HOST
      The commands that psi-setup registered for a secret.

Exit status:
  0   done
  1   it could not; standard error says why
  64  wrong usage

Environment:
  SECRET_ID
      The secret's id, 25 hexadecimal digits; for lookup also the name of a mapping. Podman sets it.
  PSI_SOCKET
      psi-serve's socket, unless --socket says so.
  XDG_RUNTIME_DIR
      Where a user's socket is.

Files:
  /run/psi/psi.sock
      psi-serve's socket.
  /etc/psi/socket-token
      The socket token, if psi-serve wants one, mode 0600: its first line. A second
      one has the token before, see docs/configuration.md.

See also:
  psi-serve(1), psi-setup(1), psi-cachectl(1), podman-secret-create(1), containers.conf(5)
";
