//! The volume plugin of an ordinary user.

use super::user::{UID, User};
use crate::support::{is_running, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// A plugin that runs as the user, and ends with this; and an engine where it is: one that does not see what is mounted is refused.
pub struct Plugin<'a> {
    user: &'a User,
    /// What enters the namespaces that they are in.
    enter: &'static str,
    child: Child,
}

impl<'a> Plugin<'a> {
    /// Starts it, and waits until it answers.
    pub fn start(user: &'a User, enter: &'static str) -> Self {
        let log =
            fs::File::options().append(true).create(true).open(user.public().join("plugin.log")).unwrap();
        let mut command = user.command(&format!("exec {enter} larder plugin"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let plugin = Self { user, enter, child };
        wait_until("the plugin listens", || {
            assert!(is_running(plugin.child.id() as i32), "the plugin ended: {}", plugin.log());
            user.run(&plugin.asking("VolumeDriver.List", &json!({}))).status.success()
        });
        plugin
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.user.public().join("plugin.log")).unwrap_or_default()
    }

    /// Ends it with a signal. What is mounted stays.
    pub fn end(mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.child.wait().unwrap();
    }

    fn asking(&self, method: &str, body: &Value) -> String {
        let enter = self.enter;
        format!(
            "{enter} curl -s --unix-socket $XDG_RUNTIME_DIR/larder/larder.sock -d '{body}' http://x/{method}"
        )
    }

    /// What the plugin answers to a call.
    #[track_caller]
    fn call(&self, method: &str, body: &Value) -> Value {
        self.user.json(&self.asking(method, body))
    }

    #[track_caller]
    fn ok(&self, method: &str, body: &Value) -> Value {
        let answer = self.call(method, body);
        assert!(answer["Err"].as_str().unwrap_or("").is_empty(), "{method} {body}: {answer}\n{}", self.log());
        answer
    }

    #[track_caller]
    pub fn fails(&self, method: &str, body: &Value) -> String {
        let answer = self.call(method, body);
        let why = answer["Err"].as_str().unwrap_or("").to_owned();
        assert!(!why.is_empty(), "{method} {body}: {answer}");
        why
    }

    #[track_caller]
    pub fn create(&self, name: &str, options: &Value) {
        self.ok("VolumeDriver.Create", &json!({ "Name": name, "Opts": options }));
    }

    #[track_caller]
    pub fn mount(&self, name: &str) -> PathBuf {
        let answer = self.ok("VolumeDriver.Mount", &json!({ "Name": name, "ID": "one" }));
        PathBuf::from(answer["Mountpoint"].as_str().unwrap())
    }

    /// Unmounts, and waits until it is.
    #[track_caller]
    pub fn unmount(&self, name: &str) {
        self.ok("VolumeDriver.Unmount", &json!({ "Name": name, "ID": "one" }));
        let enter = self.enter;
        wait_until("it is unmounted", || {
            let dir = format!("$HOME/.local/share/larder/mnt/{name}");
            !self.user.run(&format!("{enter} mountpoint -q {dir}")).status.success()
        });
    }

    #[track_caller]
    pub fn remove(&self, name: &str) {
        self.ok("VolumeDriver.Remove", &json!({ "Name": name }));
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_users_plugin_serves_his_engine() {
    let user = User::new();
    let plugin = Plugin::start(&user, "");
    let socket = fs::metadata(user.public().join("run/larder/larder.sock")).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o777), (UID, 0o600));
    plugin.create("db", &json!({ "size": "1G" }));
    let dir = plugin.mount("db");
    assert_eq!(dir, user.home().join(".local/share/larder/mnt/db"));
    let dir = dir.display().to_string();
    // Whom the engine's user namespace makes its root, is the user: the volume is his.
    user.sh(&format!("echo data > {dir}/f; stat -c '%u %g' {dir} | grep -x '{UID} {UID}'"));
    // Its server dies, the plugin does, and both.
    user.replace_server("db");
    user.sh(&format!("grep data {dir}/f; sync {dir}/f"));
    plugin.end(Signal::SIGKILL);
    let plugin = Plugin::start(&user, "");
    user.kill_server("db");
    wait_until("it is mounted again", || user.run(&format!("grep data {dir}/f")).status.success());
    // A second one, for the same root.
    let second = user.fails(5, "larder plugin");
    assert!(second.contains("another plugin"), "{second}");
    plugin.unmount("db");
    user.sh("larder check db --read-data");
    plugin.remove("db");
    assert_eq!(user.json("larder ls --json"), json!([]));
}

#[test]
fn what_a_users_plugin_cannot_do_it_says() {
    let user = User::new();
    let no_dir = user.fails(2, "unset XDG_RUNTIME_DIR; larder plugin");
    assert!(no_dir.contains("XDG_RUNTIME_DIR") && no_dir.contains("--socket"), "{no_dir}");
    let plugin = Plugin::start(&user, "");
    let refused = |name: &str| plugin.fails("VolumeDriver.Mount", &json!({ "Name": name, "ID": "one" }));
    plugin.create("memory", &json!({ "type": "tmpfs" }));
    let why = refused("memory");
    assert!(why.contains("podman unshare"), "{why}");
    plugin.create("devices", &json!({ "dev": "true" }));
    let why = refused("devices");
    assert!(why.contains("\"dev\" needs root"), "{why}");
    // What is mounted by hand would have to be bound.
    user.sh("larder create hand; mkdir v; larder mount hand v");
    let why = refused("hand");
    assert!(why.contains("larder umount hand"), "{why}");
    user.sh("larder umount hand");
    plugin.mount("hand");
    plugin.unmount("hand");
}

/// Containers have more users than one.
#[test]
fn a_users_plugin_lets_others_in_where_the_administrator_does() {
    let user = User::new();
    let plugin = Plugin::start(&user, "");
    plugin.create("db", &json!({}));
    let options = |dir: PathBuf| user.sh(&format!("findmnt -no OPTIONS {}", dir.display()));
    assert!(!options(plugin.mount("db")).contains("allow_other"));
    plugin.unmount("db");
    user.configure_fuse("user_allow_other");
    assert!(options(plugin.mount("db")).contains("allow_other"));
    plugin.unmount("db");
}
