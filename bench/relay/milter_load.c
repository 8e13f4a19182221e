/* An MTA's side of the milter protocol, as fast as the milter: COUNT connections, each one client that sends one
 * message after the other for SECONDS. One thread, epoll; nothing here waits for anything but the milter.
 *
 * Usage: milter_load ADDRESS PORT COUNT SECONDS FIRST. FIRST numbers the clients (10.0.0.0 + FIRST + n), so that
 * two runs need not share them. Prints {"transactions": …, "seconds": …, "p50_us": …, "p99_us": …, "refused": …}. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { NEGOTIATING, CONNECTING, SAYING_HELO, IN_MAIL, IN_RCPT, IN_DATA, ENDING };
enum { NO_HELO = 0x2, NO_MAIL = 0x4, NO_RCPT = 0x8, NO_BODY = 0x10, NO_HEADERS = 0x20, NO_EOH = 0x40, NO_DATA = 0x200,
       NR_HELO = 0x2000, NR_CONN = 0x1000, NR_MAIL = 0x4000, NR_RCPT = 0x8000, NR_DATA = 0x10000 };
enum { OFFERED_STEPS = 0x1fffff, VERSION = 6, BUCKETS = 1 << 20 };

struct connection {
    int fd, state;
    uint32_t steps;
    double began;
    size_t got;
    unsigned char in[1024];
};

static struct connection *connections;
static uint32_t histogram[BUCKETS]; /* per microsecond; the last one holds everything longer */
static uint64_t transactions, refused;
static int first;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "milter_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

struct packets {
    size_t length;
    unsigned char bytes[1024];
};

static void add(struct packets *packets, char command, const void *data, size_t length)
{
    uint32_t size = htonl(length + 1);
    memcpy(packets->bytes + packets->length, &size, 4);
    packets->bytes[packets->length + 4] = command;
    memcpy(packets->bytes + packets->length + 5, data, length);
    packets->length += length + 5;
}

#define ADD(packets, command, text) add(packets, command, text, sizeof(text) - 1)

static void put(struct connection *connection, const struct packets *packets)
{
    if (write(connection->fd, packets->bytes, packets->length) != (ssize_t)packets->length)
        die("write");
}

/* A stage that is left out, or that is not answered, is passed at once; its packets join the next ones. */
static void proceed(struct connection *c, int state)
{
    struct packets out = {0};
    char text[64];
    size_t length;
    int number = first + (int)(c - connections);
    switch (state) {
    case CONNECTING:
        ADD(&out, 'D', "Cj\0relay.example\0{daemon_name}\0relay.example\0v\0" "1\0");
        length = snprintf(text, sizeof text, "client.example%c4%c%c10.%d.%d.%d", 0, 4, 210,
                                 number >> 16 & 255, number >> 8 & 255, number & 255) + 1;
        add(&out, 'C', text, length);
        if (!(c->steps & NR_CONN)) { c->state = CONNECTING; break; }
        /* fall through */
    case SAYING_HELO:
        if (!(c->steps & NO_HELO)) {
            ADD(&out, 'H', "client.example\0");
            if (!(c->steps & NR_HELO)) { c->state = SAYING_HELO; break; }
        }
        /* fall through */
    case IN_MAIL:
        c->began = now();
        ADD(&out, 'D', "M{mail_addr}\0sender@inside.example\0{mail_host}\0outside.example\0{mail_mailer}\0smtp\0");
        length = snprintf(text, sizeof text, "<client%d@inside.example>%cSIZE=300", number, 0) + 1;
        add(&out, 'M', text, length);
        if (!(c->steps & NR_MAIL)) { c->state = IN_MAIL; break; }
        /* fall through */
    case IN_RCPT:
        if (!(c->steps & NO_RCPT)) {
            ADD(&out, 'D', "R{rcpt_addr}\0somebody@outside.example\0{rcpt_mailer}\0smtp\0");
            ADD(&out, 'R', "<somebody@outside.example>\0");
            if (!(c->steps & NR_RCPT)) { c->state = IN_RCPT; break; }
        }
        /* fall through */
    case IN_DATA:
        if (!(c->steps & NO_DATA)) {
            ADD(&out, 'T', "");
            if (!(c->steps & NR_DATA)) { c->state = IN_DATA; break; }
        }
        /* fall through */
    case ENDING:
        ADD(&out, 'D', "Ei\0" "4F1A2B3C\0");
        ADD(&out, 'E', "");
        c->state = ENDING;
    }
    put(c, &out);
}

static void count(struct connection *c)
{
    double us = (now() - c->began) * 1e6;
    histogram[us < BUCKETS - 1 ? (int)us : BUCKETS - 1]++;
    transactions++;
}

static void answered(struct connection *c, unsigned char answer, const unsigned char *data)
{
    if (c->state == NEGOTIATING) {
        uint32_t steps;
        memcpy(&steps, data + 8, 4);
        c->steps = ntohl(steps);
        if (answer != 'O' || !(c->steps & NO_BODY) || !(c->steps & NO_HEADERS) || !(c->steps & NO_EOH)) {
            fprintf(stderr, "milter_load: the milter wants content (steps %x): not measured\n", c->steps);
            exit(1);
        }
        proceed(c, CONNECTING);
    } else if (answer != 'c') {
        refused++;
        proceed(c, IN_MAIL);
    } else if (c->state == ENDING) {
        count(c);
        proceed(c, IN_MAIL);
    } else {
        proceed(c, c->state + 1);
    }
}

static void readable(struct connection *c)
{
    ssize_t got = read(c->fd, c->in + c->got, sizeof c->in - c->got);
    if (got <= 0)
        die("the milter closed a connection");
    c->got += got;
    for (uint32_t length; c->got >= 4; c->got -= length) {
        memcpy(&length, c->in, 4);
        length = ntohl(length) + 4;
        if (length > sizeof c->in)
            die("too long an answer");
        if (c->got < length)
            return;
        unsigned char packet[sizeof c->in];
        memcpy(packet, c->in, length);
        memmove(c->in, c->in + length, c->got - length);
        answered(c, packet[4], packet + 5);
    }
}

static void open_connection(struct connection *c, const struct sockaddr_in *to, int poll)
{
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)to, sizeof *to) != 0)
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
    uint32_t offer[3] = {htonl(VERSION), htonl(0x1ff), htonl(OFFERED_STEPS)};
    struct packets out = {0};
    add(&out, 'O', offer, sizeof offer);
    put(c, &out);
}

static double percentile(double share)
{
    uint64_t wanted = transactions * share, seen = 0;
    for (int us = 0; us < BUCKETS; us++)
        if ((seen += histogram[us]) > wanted)
            return us;
    return BUCKETS;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return fprintf(stderr, "usage: milter_load ADDRESS PORT COUNT SECONDS FIRST\n"), 2;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    inet_pton(AF_INET, argv[1], &to.sin_addr);
    int many = atoi(argv[3]), poll = epoll_create1(0);
    double length = atof(argv[4]), begin = 0, end = 0;
    first = atoi(argv[5]);
    connections = calloc(many, sizeof *connections);
    for (int n = 0; n < many; n++)
        open_connection(&connections[n], &to, poll);
    /* The first tenth warms up: threads are made, clients get their accounts. */
    double warm = now() + length / 10;
    for (struct epoll_event events[256]; !end || now() < end;) {
        int ready = epoll_wait(poll, events, 256, 1000);
        for (int n = 0; n < ready; n++)
            readable(events[n].data.ptr);
        if (!end && now() >= warm) {
            begin = now(), end = begin + length, transactions = refused = 0;
            memset(histogram, 0, sizeof histogram);
        }
    }
    printf("{\"transactions\": %lu, \"seconds\": %.3f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"refused\": %lu}\n",
           (unsigned long)transactions, now() - begin, percentile(0.50), percentile(0.99), (unsigned long)refused);
    return 0;
}
