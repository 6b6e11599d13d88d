/*
 * A stand-in for Pyxis (https://github.com/NVIDIA/pyxis) and Enroot, for tests: Debian has neither.
 *
 * It takes Pyxis's options, and runs a step's tasks in a root that stands for the image: an overlay over the folders
 * that an image file names, read-only like Enroot's. It refuses what they refuse: an image that is no file although it
 * begins with / or ./, an image that is not in the registry, a named container that was never made, a mount of
 * something that does not exist. The image's environment wins over the job's.
 *
 * Of a job's environment it takes which Pyxis it is:
 *
 * STAND_IN_PYXIS=N   Pyxis 0.N [24]. From 24 on it looks mounts up as they are written and escapes blanks itself;
 *                    before, they go to fstab(5) as they are. Before 15, docker:// is put before every image's name.
 * STAND_IN_SCOPE=job container_scope=job: containers have the job's number in their names. [global]
 * STAND_IN_BROKEN=yes    containers start no more once they are made.
 *
 * plugstack.conf: required pyxis_stand_in.so BASE. BASE/registry holds images by name, BASE/dockerd those of Docker;
 * BASE/containers/NODE/pyxis_NAME are the containers, whatever ENROOT_DATA_PATH the job has; NODE is slurmd's
 * STAND_IN_NODE. An image file is the line "lowerdir=A:B" and lines NAME=VALUE, its environment. Jobs run as root. The
 * mounts are in a namespace of the step's own and end with it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <mntent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(pyxis_stand_in, 1)

#define LONG 8192

static char *image, *name, *mounts, *workdir;
static char root[LONG];     /* of the container; empty: this step runs in none */
static int broken;          /* the container could not be started */
static int release = 24;    /* of the Pyxis that this stands for: 0.release */

enum { IMAGE = 1, MOUNTS, WORKDIR, NAME, OTHER };

static int take(char **to, const char *option, const char *value)
{
    if (value == NULL || *value == '\0') {
        slurm_error("pyxis: --%s: argument required", option);
        return -1;
    }
    if (*to != NULL && strcmp(*to, value) != 0) {
        slurm_error("pyxis: --%s specified multiple times", option);
        return -1;
    }
    *to = strdup(value);
    return 0;
}

/* SRC:DST[:FLAGS],... ; calls each() if it is given. */
static int for_each_mount(const char *value, int (*each)(const char *, const char *, const char *))
{
    char *copy = strdup(value), *rest = copy, *entry;
    int status = 0;

    while (status == 0 && (entry = strsep(&rest, ",")) != NULL) {
        char *source = strsep(&entry, ":");
        char *target = entry ? strsep(&entry, ":") : source;
        if (strspn(source, "./") == 0 || strspn(target, "./") == 0) {
            slurm_error("pyxis: mount source and target must be a relative path or an absolute path: %s:%s", source,
                        target);
            status = -1;
        } else if (each != NULL) {
            status = each(source, target, entry ? entry : "");
        }
    }
    free(copy);
    return status;
}

static int on_option(int val, const char *value, int remote)
{
    (void)remote;
    switch (val) {
    case IMAGE:
        return take(&image, "container-image", value);
    case WORKDIR:
        return take(&workdir, "container-workdir", value);
    case NAME:
        return take(&name, "container-name", value);
    case MOUNTS:
        return take(&mounts, "container-mounts", value) < 0 ? -1 : for_each_mount(value, NULL);
    }
    return 0;
}

/* Pyxis's args.c; nothing else exists. */
struct spank_option spank_options[] = {
    { "container-image", "IMAGE", "[pyxis]", 1, IMAGE, on_option },
    { "container-mounts", "SRC:DST[:FLAGS]", "[pyxis]", 1, MOUNTS, on_option },
    { "container-workdir", "PATH", "[pyxis]", 1, WORKDIR, on_option },
    { "container-name", "NAME", "[pyxis]", 1, NAME, on_option },
    { "container-save", "PATH", "[pyxis]", 1, OTHER, on_option },
    { "container-mount-home", NULL, "[pyxis]", 0, OTHER, on_option },
    { "no-container-mount-home", NULL, "[pyxis]", 0, OTHER, on_option },
    { "container-remap-root", NULL, "[pyxis]", 0, OTHER, on_option },
    { "no-container-remap-root", NULL, "[pyxis]", 0, OTHER, on_option },
    { "container-entrypoint", NULL, "[pyxis]", 0, OTHER, on_option },
    { "no-container-entrypoint", NULL, "[pyxis]", 0, OTHER, on_option },
    { "container-entrypoint-log", NULL, "[pyxis]", 0, OTHER, on_option },
    { "container-writable", NULL, "[pyxis]", 0, OTHER, on_option },
    { "container-readonly", NULL, "[pyxis]", 0, OTHER, on_option },
    { "container-env", "NAME[,NAME...]", "[pyxis]", 1, OTHER, on_option },
    SPANK_OPTIONS_TABLE_END
};

static int make_target(const char *path, int folder)
{
    char copy[LONG];

    snprintf(copy, sizeof(copy), "%s", path);
    for (char *slash = strchr(copy + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            return -1;
        *slash = '/';
    }
    if (folder)
        return mkdir(copy, 0755) < 0 && errno != EEXIST ? -1 : 0;
    return mknod(copy, S_IFREG | 0644, 0) < 0 && errno != EEXIST ? -1 : 0;
}

/* Like enroot-mount: the entry goes through getmntent, so that a blank ends a field and \040 is a blank. */
static int bind(const char *source, const char *target, const char *flags)
{
    char line[LONG], place[2 * LONG];
    struct mntent entry;
    struct stat status;
    int written = snprintf(line, sizeof(line), "%s %s x-create=auto,rbind,%s\n", source, target, flags);
    FILE *file = fmemopen(line, (size_t)written, "r");
    char buffer[LONG];

    if (file == NULL || getmntent_r(file, &entry, buffer, sizeof(buffer)) == NULL)
        return -1;
    fclose(file);
    snprintf(place, sizeof(place), "%s%s%s", root, *entry.mnt_dir == '/' ? "" : "/", entry.mnt_dir);
    if (stat(entry.mnt_fsname, &status) < 0 || make_target(place, S_ISDIR(status.st_mode)) < 0 ||
        mount(entry.mnt_fsname, place, NULL, MS_BIND | MS_REC, NULL) < 0 ||
        (strcmp(flags, "ro") == 0 && mount(NULL, place, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)) {
        slurm_error("pyxis:     enroot-mount: failed to mount: %s at %s: %s", entry.mnt_fsname, place, strerror(errno));
        return -1;
    }
    return 0;
}

/* A mount of --container-mounts. Pyxis 0.24 escapes what fstab(5) cannot hold, after it has looked the source up. */
static int bind_for_user(const char *source, const char *target, const char *flags)
{
    char escaped[LONG];
    size_t length = 0;

    if (release < 24)
        return bind(source, target, flags);
    if (access(source, F_OK) < 0) {
        slurm_error("pyxis: --container-mounts: source path does not exist: %s", source);
        return -1;
    }
    for (const char *next = source; *next != '\0' && length + 5 < sizeof(escaped); ++next) {
        if (strchr(" \t\\", *next) == NULL)
            escaped[length++] = *next;
        else
            length += (size_t)sprintf(escaped + length, "\\%03o", (unsigned)*next);
    }
    escaped[length] = '\0';
    return bind(escaped, target, flags);
}

static int make_container(const char *base, const char *folder)
{
    static const char *parts[] = { "", "/upper", "/work", "/root" };
    char path[LONG], line[LONG] = "", made[2 * LONG];
    FILE *file, *copy;

    if (strspn(image, "./") > 0)
        snprintf(path, sizeof(path), "%s", image);
    else if (release >= 15 && strncmp(image, "dockerd://", 10) == 0)
        snprintf(path, sizeof(path), "%s/dockerd/%s", base, image + 10);
    else
        snprintf(path, sizeof(path), "%s/registry/%s", base,
                 image + (release >= 15 && strncmp(image, "docker://", 9) == 0 ? 9 : 0));
    file = fopen(path, "r");
    if (file == NULL) {
        slurm_error(strspn(image, "./") > 0 ? "pyxis: failed to create container filesystem: %s: %s"
                                            : "pyxis: failed to import docker image: %s: %s", image, strerror(errno));
        return -1;
    }
    if (fgets(line, sizeof(line), file) == NULL || strncmp(line, "lowerdir=", 9) != 0) {
        slurm_error("pyxis:     Invalid image format: %s", image);
        fclose(file);
        return -1;
    }
    for (int i = 0; i < 4; ++i) {
        snprintf(made, sizeof(made), "%s%s", folder, parts[i]);
        if (make_target(made, 1) < 0)
            return -1;
    }
    snprintf(made, sizeof(made), "%s/image", folder);
    copy = fopen(made, "w");
    if (copy == NULL)
        return -1;
    do {
        fputs(line, copy);
    } while (fgets(line, sizeof(line), file) != NULL);
    fclose(file);
    return fclose(copy);
}

static int start_container(spank_t sp, const char *base)
{
    const char *node = getenv("STAND_IN_NODE"); /* given to slurmd: all nodes have one host name */
    char folder[2 * LONG], path[3 * LONG], lower[LONG] = "", options[6 * LONG], value[LONG], job[LONG] = "";
    uint32_t number;
    FILE *file;

    if (spank_getenv(sp, "STAND_IN_PYXIS", value, sizeof(value)) == ESPANK_SUCCESS)
        release = atoi(value);
    if (spank_getenv(sp, "STAND_IN_SCOPE", value, sizeof(value)) == ESPANK_SUCCESS && strcmp(value, "job") == 0 &&
        spank_get_item(sp, S_JOB_ID, &number) == ESPANK_SUCCESS)
        snprintf(job, sizeof(job), "%u_", number);
    if (name == NULL || node == NULL) {
        slurm_error("pyxis stand-in: no --container-name, or slurmd without STAND_IN_NODE");
        return -1;
    }
    snprintf(folder, sizeof(folder), "%s/containers/%s/pyxis_%s%s", base, node, job, name);
    if (access(folder, F_OK) < 0) {
        if (image == NULL) {
            slurm_error("pyxis: error: a container with name \"pyxis_%s%s\" does not exist, and --container-image is "
                        "not set", job, name);
            return -1;
        }
        if (make_container(base, folder) < 0)
            return -1;
    } else if (image == NULL && spank_getenv(sp, "STAND_IN_BROKEN", value, sizeof(value)) == ESPANK_SUCCESS) {
        slurm_error("pyxis: container start failed with error code: 1");
        slurm_error("pyxis: printing enroot log file:");
        slurm_error("pyxis:     [ERROR] No space left on the test's device");
        return -1;
    }
    snprintf(path, sizeof(path), "%s/image", folder);
    file = fopen(path, "r");
    if (file == NULL || fgets(lower, sizeof(lower), file) == NULL)
        return -1;
    while (fgets(value, sizeof(value), file) != NULL) {
        char *text = strchr(value, '=');
        value[strcspn(value, "\n")] = '\0';
        if (text != NULL) {
            *text = '\0';
            spank_setenv(sp, value, text + 1, 1);
        }
    }
    fclose(file);
    lower[strcspn(lower, "\n")] = '\0';
    snprintf(root, sizeof(root), "%s/root", folder);
    snprintf(options, sizeof(options), "%s,upperdir=%s/upper,workdir=%s/work", lower, folder, folder);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 ||
        mount("overlay", root, "overlay", 0, options) < 0) {
        slurm_error("pyxis stand-in: overlay %s at %s: %s", options, root, strerror(errno));
        return -1;
    }
    snprintf(path, sizeof(path), "%s/tmp", root);
    if (make_target(path, 1) < 0 || mount("tmpfs", path, "tmpfs", 0, NULL) < 0)
        return -1;
    /* Enroot's own; and the spool folder, where PMIx keeps its sockets (Enroot: hooks.d/50-slurm-pmi.sh). */
    if (bind("/proc", "/proc", "") < 0 || bind("/sys", "/sys", "") < 0 || bind("/dev", "/dev", "") < 0 ||
        bind("/etc/hosts", "/etc/hosts", "ro") < 0)
        return -1;
    snprintf(path, sizeof(path), "%s/spool", base);
    if (bind(path, path, "") < 0)
        return -1;
    if (mounts != NULL && for_each_mount(mounts, bind_for_user) < 0)
        return -1;
    return mount(NULL, root, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL);
}

int slurm_spank_user_init(spank_t sp, int ac, char **av)
{
    if (!spank_remote(sp) || (image == NULL && name == NULL))
        return 0;
    /* Like Pyxis: an error here would not reach srun, one of task_init does. */
    broken = ac != 1 || start_container(sp, av[0]) < 0;
    return 0;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
    (void)ac;
    (void)av;
    if (!spank_remote(sp) || (image == NULL && name == NULL))
        return 0;
    if (broken) {
        /* Pyxis names the cause on one task of a node; the others only say that it was another one. */
        slurm_error("pyxis: couldn't start container");
        slurm_error("pyxis: container was not started successfully by another task");
        return -1;
    }
    if (chroot(root) < 0 || chdir(workdir != NULL ? workdir : "/") < 0) {
        slurm_error("pyxis: couldn't chdir to %s: %s", workdir, strerror(errno));
        return -1;
    }
    return 0;
}
