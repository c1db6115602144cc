//! The package on a machine with systemd: the units, and what installing, upgrading and removing does.

use super::machine::Machine;

#[test]
fn a_unit_mounts_its_volume_before_others_start_and_brings_it_back() {
    let machine = Machine::new();
    machine.sh("larder create my-db; systemctl start larder@my-db; echo data > /mnt/larder/my-db/f
                findmnt -no SOURCE /mnt/larder/my-db | grep -x my-db");
    // The server dies, and another one takes over; so does one that a reload asks for.
    machine.sh("exec 9< /mnt/larder/my-db/f; main=$(systemctl show -p MainPID --value larder@my-db)
                server() { larder inspect my-db | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'; }
                kill -9 $(server); grep data <&9; echo more >> /mnt/larder/my-db/f
                old=$(server); systemctl reload larder@my-db; [ $(server) != $old ]; grep more /mnt/larder/my-db/f
                [ $main = $(systemctl show -p MainPID --value larder@my-db) ]; echo data > /mnt/larder/my-db/f");
    // A restart keeps what is mounted, and an order to end does not.
    machine.sh("exec 9< /mnt/larder/my-db/f; cd /mnt/larder/my-db; old=$(systemctl show -p MainPID --value larder@my-db)
                for _ in 1 2 3; do systemctl restart larder@my-db; systemctl reset-failed; grep data f; grep data <&9 || true; done
                [ $(systemctl show -p MainPID --value larder@my-db) != $old ]; echo data > f
                [ $(systemctl show -p NFileDescriptorStore --value larder@my-db) = 0 ]");
    // The server and its holder die, and systemd starts another one.
    machine.sh("systemctl kill -s KILL larder@my-db; until_true 'cat /mnt/larder/my-db/f'; systemctl is-active larder@my-db");
    // Options, and an order to end.
    machine.sh("systemctl reset-failed; mkdir -p /etc/larder; echo 'OPTIONS=-o ro,noatime' > /etc/larder/my-db.env; systemctl restart larder@my-db
                findmnt -no OPTIONS /mnt/larder/my-db | grep noatime; ! touch /mnt/larder/my-db/g
                systemctl stop larder@my-db; ! mounted my-db; larder check my-db");
    assert_eq!(machine.sh("systemctl is-failed larder@my-db || true"), "inactive");
    // What cannot be mounted says why.
    let status =
        machine.fails("systemctl start larder@missing || { journalctl -u larder@missing -o cat; false; }");
    assert!(status.contains("missing"), "{status}");
    // Enabled, it is there after a power cut.
    machine.sh("rm /etc/larder/my-db.env; systemctl enable -q larder@my-db");
    machine.reboot();
    assert_eq!(machine.sh("cat /mnt/larder/my-db/f"), "data");
}

#[test]
fn secrets_come_from_the_credentials_store() {
    let machine = Machine::new();
    machine.sh("mkdir -p -m 700 /etc/credstore; head -c 32 /dev/urandom > /etc/credstore/larder.safe.key
                larder create safe --encrypt --key-file /etc/credstore/larder.safe.key; chmod 600 /etc/credstore/*
                systemctl start larder@safe; echo secret > /mnt/larder/safe/f; systemctl stop larder@safe");
    machine.sh("mv /etc/credstore/larder.safe.key /root/key");
    let status = machine.fails("systemctl start larder@safe || { journalctl -u larder@safe -o cat; false; }");
    assert!(status.contains("encrypted"), "{status}");
    // Another place, and encrypted with the machine's own secret.
    machine.sh("systemctl reset-failed
                systemd-creds encrypt --with-key=host --name=larder.safe.key /root/key /root/sealed 2>/dev/null
                mkdir -p /etc/systemd/system/larder@safe.service.d
                printf '[Service]\\nLoadCredentialEncrypted=larder.safe.key:/root/sealed\\n' \
                    > /etc/systemd/system/larder@safe.service.d/key.conf
                systemctl daemon-reload; systemctl start larder@safe; grep secret /mnt/larder/safe/f; systemctl stop larder@safe");
}

#[test]
fn the_driver_starts_when_it_is_needed_and_the_package_comes_and_goes() {
    let machine = Machine::new();
    let list = "curl -s --unix-socket /run/docker/plugins/larder.sock -d '{}' http://x/VolumeDriver.List";
    let active = "systemctl is-active larder-plugin.service || true";
    assert_eq!(
        machine.sh("systemctl is-active larder-plugin.socket; systemctl is-enabled larder-plugin.socket"),
        "active\nenabled"
    );
    assert_eq!(machine.sh(active), "inactive");
    assert_eq!(machine.sh("stat -c '%a %U' /run/docker/plugins/larder.sock"), "600 root");
    machine.sh(&format!("larder create v; {list} | grep -q '\"v\"'"));
    assert_eq!(machine.sh(active), "active");
    // An upgrade starts the new driver, and what is mounted stays.
    let mount = "curl -s --unix-socket /run/docker/plugins/larder.sock -d '{\"Name\":\"v\",\"ID\":\"1\"}' http://x/VolumeDriver.Mount";
    machine.sh(&format!(
        "dir=$({mount} | sed 's/.*\"Mountpoint\":\"\\([^\"]*\\)\".*/\\1/'); echo data > $dir/f; exec 9< $dir/f
         old=$(systemctl show -p MainPID --value larder-plugin.service); dpkg -i /exchange/larder.deb >/dev/null
         [ $(systemctl show -p MainPID --value larder-plugin.service) != $old ]; {list} | grep -q '\"v\"'
         grep data <&9; mounted v"
    ));
    // It is not taken away under those who use it.
    assert!(machine.fails("dpkg -r larder").contains("volumes are mounted"));
    machine.sh(&format!(
        "{} | grep -qv 'Err\":\"[^\"]'; until_true '! mounted v'",
        mount.replace("Mount", "Unmount")
    ));
    machine.sh("dpkg -r larder >/dev/null; [ ! -e /usr/bin/larder ]; [ ! -e /run/docker/plugins/larder.sock ]
                dpkg -i /exchange/larder.deb >/dev/null; larder check v; dpkg -P larder >/dev/null; ls /var/lib/larder/volumes/v");
    assert!(machine.sh("systemctl --failed --no-legend --plain").is_empty());
}
