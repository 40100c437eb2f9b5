//! Who a container runs as: `USER` of the image and the pod's security context, looked up in the
//! image's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)).

use bulkhead_agent_protocol::pod::{PodSecurityContext, SecurityContext};

/// A process's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(Passwd { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(4, ':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

/// Decides it.
///
/// # Errors
/// A line for people: an unknown name, or root where `runAsNonRoot` holds.
pub(crate) fn resolve(
    image_user: &str,
    passwd: &str,
    group: &str,
    pod: &PodSecurityContext,
    container: &SecurityContext,
) -> Result<User, String> {
    let (user_part, group_part) = image_user.split_once(':').unwrap_or((image_user, ""));
    let run_as_user = container.run_as_user.or(pod.run_as_user);
    let wanted = run_as_user.map_or_else(|| user_part.to_owned(), |uid| uid.to_string());
    let wanted = if wanted.is_empty() { String::from("0") } else { wanted };
    let by_id = wanted.parse::<u32>().ok();
    let entry = passwd_entries(passwd)
        .find(|entry| by_id.map_or(entry.name == wanted, |id| entry.uid == id));
    let uid = by_id
        .or(entry.as_ref().map(|entry| entry.uid))
        .ok_or_else(|| format!("the image's user {wanted} is not in its /etc/passwd"))?;

    let image_group = match group_part {
        "" => None,
        name => Some(
            name.parse()
                .ok()
                .or_else(|| group_entries(group).find(|(known, ..)| *known == name).map(|g| g.1))
                .ok_or_else(|| format!("the image's group {name} is not in its /etc/group"))?,
        ),
    };
    let gid = container
        .run_as_group
        .or(pod.run_as_group)
        .or(image_group.filter(|_| run_as_user.is_none()))
        .or(entry.as_ref().map(|entry| entry.gid))
        .unwrap_or(0);

    if container.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        if uid == 0 {
            return Err("container has runAsNonRoot and image will run as root".into());
        }
        if run_as_user.is_none() && by_id.is_none() {
            return Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({user_part}), cannot \
                 verify user is non-root: set runAsUser"
            ));
        }
    }

    let mut groups: Vec<u32> = entry
        .as_ref()
        .map(|user| {
            group_entries(group)
                .filter(|(.., members)| members.split(',').any(|member| member == user.name))
                .map(|(_, gid, _)| gid)
                .collect()
        })
        .unwrap_or_default();
    groups.extend(&pod.supplemental_groups);
    groups.extend(pod.fs_group);
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(User { uid, gid, groups, home: home.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34:w:/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:4:web,root\n";

    fn user(image: &str, pod: &PodSecurityContext) -> Result<User, String> {
        resolve(image, PASSWD, GROUP, pod, &SecurityContext::default())
    }

    #[test]
    fn names_come_from_the_image_and_numbers_need_no_entry() {
        let pod = PodSecurityContext::default();
        let web = user("web", &pod).unwrap();
        assert_eq!(
            (web.uid, web.gid, web.groups, web.home.as_str()),
            (33, 34, vec![4, 34], "/srv")
        );
        let number = user("1234", &pod).unwrap();
        assert_eq!((number.uid, number.gid, number.home.as_str()), (1234, 0, "/"));
        let group = user("1234:log", &pod).unwrap();
        assert_eq!((group.uid, group.gid), (1234, 4));
        assert!(user("nobody", &pod).unwrap_err().contains("nobody"));
        assert!(user("web:none", &pod).unwrap_err().contains("none"));
    }

    #[test]
    fn the_pods_context_overrides_the_image() {
        let pod = PodSecurityContext {
            run_as_user: Some(33),
            run_as_group: Some(7),
            supplemental_groups: vec![9],
            fs_group: Some(8),
            ..PodSecurityContext::default()
        };
        let user = user("root:root", &pod).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (33, 7, vec![4, 7, 8, 9]));
    }

    #[test]
    fn root_is_refused_where_it_is_not_wanted() {
        let pod = PodSecurityContext { run_as_non_root: Some(true), ..Default::default() };
        assert!(user("", &pod).is_err());
        assert!(user("web", &pod).is_err(), "a name may turn into root");
        assert_eq!(user("33", &pod).unwrap().uid, 33);
    }
}
