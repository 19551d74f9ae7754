/* Preloaded into the browser, so that it hears of no change of this host's network. Other tests create and remove
   networks all the time, and Chromium aborts every request after each change (ERR_NETWORK_CHANGED). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>

int bind(int socket, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    struct sockaddr_nl quiet;
    if (address == NULL || address->sa_family != AF_NETLINK || length < sizeof quiet) {
        return next(socket, address, length);
    }
    memcpy(&quiet, address, sizeof quiet);
    quiet.nl_groups = 0;
    return next(socket, (const struct sockaddr *)&quiet, sizeof quiet);
}
