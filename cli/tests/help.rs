//! Help and completion, which are generated, come out whole.

mod support;

use support::{Outcome, bulkhead};

#[test]
fn help_teaches_the_first_steps() {
    let home = tempfile::tempdir().unwrap();
    let outcome = Outcome::of(bulkhead(home.path(), &["--help"]));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    for part in ["bulkhead doctor", "cluster create demo --nodes 3", "NO_COLOR", "Exit codes"] {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
}

#[test]
fn every_shell_has_a_completion() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = Outcome::of(bulkhead(home.path(), &["completion", shell]));
        assert!(outcome.stdout.contains("kubeconfig"), "{shell}");
    }
    Outcome::of(bulkhead(home.path(), &["completion", "tcl"])).refused(2, &["tcl", "bash"]);
}
