//! The user's browser.

/// Opens an address in it, without waiting for it.
///
/// # Errors
/// There is no display, or no program that opens addresses.
pub(super) fn open(url: &str) -> Result<(), String> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(target_os = "linux") && !set("DISPLAY") && !set("WAYLAND_DISPLAY") && !set("BROWSER") {
        return Err("there is no display".to_owned());
    }
    open::that_detached(url).map_err(|error| error.to_string())
}
