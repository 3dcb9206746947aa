//! The program `quittance`; everything it does is in the library.

fn main() -> std::process::ExitCode {
    // Before anything opens a connection; an error means that there is a provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    quittance::cli::main()
}
