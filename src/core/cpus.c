/* cpus.c - how many threads are worth starting here.
   Two threads of one core share its multipliers, so cores count and not CPUs; in a container the
   CPU quota counts, because threads beyond it are only throttled. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pool.h"

/* First line of a small system file; false when it cannot be read. */
static bool read_line(const char *path, char *line, int size)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool ok = fgets(line, size, file) != NULL;
    fclose(file);
    return ok;
}

static bool topology_value(int cpu, const char *what, long *value)
{
    char path[128], line[64];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/%s", cpu, what);
    if (!read_line(path, line, sizeof line)) return false;
    char *end;
    *value = strtol(line, &end, 10);
    return end != line;
}

typedef struct core_id {
    long package, die, core;
} core_id;

/* Distinct cores among the CPUs of the affinity mask; 0 when unknown. */
static int usable_cores(void)
{
    enum { max_cores = 1024 }; /* more are simply not counted */
    core_id seen[max_cores];
    int cores = 0;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && cores < max_cores; cpu++) {
        if (!CPU_ISSET(cpu, &set)) continue;
        core_id id = {0, 0, 0};
        if (!topology_value(cpu, "core_id", &id.core)) return CPU_COUNT(&set);
        if (!topology_value(cpu, "physical_package_id", &id.package)) id.package = 0;
        if (!topology_value(cpu, "die_id", &id.die)) id.die = 0;
        int i = 0;
        while (i < cores &&
               (seen[i].core != id.core || seen[i].package != id.package || seen[i].die != id.die))
            i++;
        if (i == cores) seen[cores++] = id;
    }
    return cores;
}

/* Whole CPUs granted by quota/period, at least 1; 0 when there is no limit. */
static int whole_cpus(double quota, double period)
{
    if (!(quota > 0) || !(period > 0)) return 0;
    double cpus = quota / period;
    return cpus < 1 ? 1 : cpus > 1e6 ? 0 : (int)cpus;
}

/* The limit set by one folder of a version 2 hierarchy ("max 100000" or "150000 100000"). */
static int folder_quota_v2(const char *folder)
{
    char path[4352], line[128], *end;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!read_line(path, line, sizeof line)) return 0;
    double quota = strtod(line, &end);
    return end == line ? 0 : whole_cpus(quota, strtod(end, NULL));
}

/* The same for version 1, where the quota is -1 when there is none. */
static int folder_quota_v1(const char *folder)
{
    char path[4352], quota[64], period[64];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, quota, sizeof quota)) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    if (!read_line(path, period, sizeof period)) return 0;
    return whole_cpus(strtod(quota, NULL), strtod(period, NULL));
}

/* The smallest limit from `group` up to the root of the hierarchy mounted at `mount`. */
static int smallest_quota(const char *mount, const char *group, int (*quota_of)(const char *))
{
    char folder[4224];
    int smallest = 0;
    size_t root = strlen(mount);
    snprintf(folder, sizeof folder, "%s%s", mount, group);
    for (;;) {
        int quota = quota_of(folder);
        if (quota && (!smallest || quota < smallest)) smallest = quota;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < root) return smallest;
        *slash = 0;
    }
}

/* CPUs granted by the control groups of this process; 0 when there is no limit. */
static int cgroup_quota(void)
{
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return 0;
    char line[4096];
    int smallest = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        controllers++;
        int quota = 0;
        if (!*controllers)
            quota = smallest_quota("/sys/fs/cgroup", group, folder_quota_v2);
        else if (!strcmp(controllers, "cpu") || !strncmp(controllers, "cpu,", 4) ||
                 strstr(controllers, ",cpu,") ||
                 (strlen(controllers) > 4 &&
                  !strcmp(controllers + strlen(controllers) - 4, ",cpu")))
            quota = smallest_quota("/sys/fs/cgroup/cpu", group, folder_quota_v1);
        if (quota && (!smallest || quota < smallest)) smallest = quota;
    }
    fclose(file);
    return smallest;
}

int lgv_default_threads(void)
{
    int threads = usable_cores();
    if (threads < 1) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        threads = online > 0 && online <= 4096 ? (int)online : 1;
    }
    int quota = cgroup_quota();
    return quota && quota < threads ? quota : threads;
}
