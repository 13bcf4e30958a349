;;; Services of ersatz, for Guix System.
;;;
;;; (operating-system
;;;   …
;;;   (services
;;;    (cons* (service ersatz-node-service-type
;;;                    (ersatz-node-configuration
;;;                     (authorized-keys (list (local-file "server.pub")))))
;;;           (modify-services %base-services
;;;             (guix-service-type config => (guix-with-ersatz config))))))
;;;
;;; An extension of guix-service-type cannot set variables of guix-daemon: that
;;; is why GUIX needs the last line.

(define-module (ersatz services)
  #:use-module (ersatz packages)
  #:use-module (gnu packages admin)
  #:use-module (gnu services)
  #:use-module (gnu services base)
  #:use-module (gnu services configuration)
  #:use-module (gnu services shepherd)
  #:use-module (gnu system shadow)
  #:use-module (guix gexp)
  #:use-module (guix records)
  #:use-module (srfi srfi-1)
  #:export (ersatz-node-configuration
            ersatz-node-configuration?
            ersatz-node-service-type

            ersatz-publish-configuration
            ersatz-publish-configuration?
            ersatz-publish-service-type

            guix-with-ersatz))

(define list-of-file-likes? (list-of file-like?))

(define-maybe/no-serialization string)

(define-configuration/no-serialization ersatz-node-configuration
  (ersatz
   (file-like ersatz)
   "The package.")
  (listen
   (string "127.0.0.1:8181")
   "Address and port, numbers both, at which Guix and Nix get substitutes.")
  (upstreams
   (list-of-strings %default-substitute-urls)
   "URLs of substitute servers, best first.")
  (quota
   (string "10GiB")
   "How much is kept on disk.")
  (policy
   (string "mixed")
   "Where bytes come from: mixed, p2p-only or http-only.")
  (peers
   (list-of-strings '())
   "URLs of other nodes.")
  (share
   (string "none")
   "Who else is served: none, lan or all.")
  (share-lists
   (list-of-file-likes '())
   "Files with the keys whose items are shared.")
  (from
   (list-of-strings '())
   "URLs of stores and networks that blocks are got from.")
  (serve
   (list-of-strings '())
   "URLs of stores and networks by which what is shared is served.")
  (upload-limit
   maybe-string
   "What others get together, such as \"2MB\" per second.")
  (extra-options
   (list-of-strings '())
   "More options of @command{ersatz node}.")
  (authorized-keys
   (list-of-file-likes '())
   "Public keys that guix-daemon accepts, beside those of
@code{guix-configuration}."))

(define (log-file name)
  (string-append "/var/log/" name ".log"))

(define (address text)
  "Return a gexp for the socket address of TEXT, HOST:PORT in numbers."
  (let* ((colon (string-rindex text #\:))
         (host (string-trim-both (string-take text colon)
                                 (char-set #\[ #\])))
         (port (string->number (string-drop text (+ colon 1)))))
    (if (string-index host #\:)
        #~(make-socket-address AF_INET6 (inet-pton AF_INET6 #$host) #$port)
        #~(make-socket-address AF_INET (inet-pton AF_INET #$host) #$port))))

(define (system-account name comment)
  (list (user-group (name name) (system? #t))
        (user-account
         (name name)
         (group name)
         (system? #t)
         (comment comment)
         (home-directory "/var/empty")
         (shell (file-append shadow "/sbin/nologin")))))

(define (own-directory directory owner mode)
  "Return a gexp that makes DIRECTORY and gives it to OWNER, or to root if there
is no such user: guix-daemon runs as root where it has none of its own."
  (with-imported-modules '((guix build utils))
    #~(begin
        (use-modules (guix build utils))
        (let ((user (or (false-if-exception (getpwnam #$owner))
                        (getpwuid 0))))
          (mkdir-p #$directory)
          (chown #$directory (passwd:uid user) (passwd:gid user))
          (chmod #$directory #$mode)))))

;;;
;;; The node.
;;;

(define (ersatz-node-shepherd-services config)
  (match-record config <ersatz-node-configuration>
    (ersatz listen upstreams quota policy peers share share-lists from serve
            upload-limit extra-options)
    (define command
      #~(list #$(file-append ersatz "/bin/ersatz") "node"
              "--state=/var/lib/ersatz-node"
              #$(string-append "--quota=" quota)
              #$(string-append "--policy=" policy)
              #$(string-append "--share=" share)
              #$@(map (lambda (url) (string-append "--upstream=" url)) upstreams)
              #$@(map (lambda (url) (string-append "--peer=" url)) peers)
              #$@(append-map (lambda (file) (list "--share-list" file)) share-lists)
              #$@(map (lambda (url) (string-append "--from=" url)) from)
              #$@(map (lambda (url) (string-append "--serve=" url)) serve)
              #$@(if (maybe-value-set? upload-limit)
                     (list (string-append "--upload-limit=" upload-limit))
                     '())
              #$@extra-options))
    (list (shepherd-service
           (provision '(ersatz-node))
           (requirement '(user-processes))
           (documentation "Fetch, keep and share substitutes.")
           ;; The first request starts it, unless others are to find it.
           (start #~(make-systemd-constructor
                     #$command
                     (list (endpoint #$(address listen) #:name "web")
                           (endpoint (make-socket-address
                                      AF_UNIX "/run/ersatz/node.sock")
                                     #:name "socket"
                                     #:socket-directory-permissions #o755))
                     #:user "ersatz-node"
                     #:group "ersatz-node"
                     #:lazy-start? #$(and (string=? share "none") (null? serve))
                     #:log-file #$(log-file "ersatz-node")))
           (stop #~(make-systemd-destructor))))))

(define ersatz-node-service-type
  (service-type
   (name 'ersatz-node)
   (extensions
    (list (service-extension shepherd-root-service-type
                             ersatz-node-shepherd-services)
          (service-extension account-service-type
                             (const (system-account "ersatz-node" "ersatz node")))
          (service-extension activation-service-type
                             (const #~(begin
                                        #$(own-directory "/var/lib/ersatz-node"
                                                         "ersatz-node" #o750)
                                        #$(own-directory "/var/lib/ersatz"
                                                         "guix-daemon" #o755))))
          ;; This has GUIX, see below, in the system's profile.
          (service-extension profile-service-type
                             (compose list ersatz-node-configuration-ersatz))
          (service-extension guix-service-type
                             (lambda (config)
                               (guix-extension
                                (authorized-keys
                                 (ersatz-node-configuration-authorized-keys
                                  config)))))))
   (default-value (ersatz-node-configuration))
   (description "Fetch substitutes from servers, peers and networks, keep them, and
serve them to guix-daemon and to Nix on this machine.")))

(define (guix-with-ersatz config)
  "Return CONFIG, a <guix-configuration>, with a guix-daemon that asks
ersatz-substitute for substitutes.  The service ersatz-node has it in the
system's profile."
  (guix-configuration
   (inherit config)
   (environment
    (append (list "GUIX=/run/current-system/profile/libexec/ersatz/ersatz-guix"
                  "ERSATZ_GUIX_REAL=/run/current-system/profile/bin/guix")
            (guix-configuration-environment config)))))

;;;
;;; The server.
;;;

(define-configuration/no-serialization ersatz-publish-configuration
  (ersatz
   (file-like ersatz)
   "The package.")
  (listen
   (string "0.0.0.0:8080")
   "Address and port, numbers both.")
  (cache
   (string "/var/cache/ersatz")
   "Folder of what was baked.")
  (compression
   (list-of-strings '("zstd:19"))
   "Methods of compression, METHOD:LEVEL.")
  (ttl
   (string "30d")
   "How long narinfos and nars may be kept by clients, and are kept here.")
  (negative-ttl
   (string "1h")
   "How long clients may believe that something is not there.")
  (bake-roots
   (list-of-strings '())
   "Profiles whose closures are baked ahead.")
  (ipfs
   maybe-string
   "URL of the RPC of an IPFS daemon that blocks are put into.")
  (serve
   (list-of-strings '())
   "URLs of stores and networks by which blocks are served.  Networks that
everybody can ask get what @code{bake-roots} refers to.")
  (upload-limit
   maybe-string
   "Bytes per second that are sent by way of @code{serve}, such as 2MB.")
  (metrics-listen
   maybe-string
   "HOST:PORT to answer Prometheus on.")
  (advertise?
   (boolean #f)
   "Whether the local network is told.")
  (extra-options
   (list-of-strings '())
   "More options of @command{ersatz publish}."))

(define (ersatz-publish-shepherd-services config)
  (match-record config <ersatz-publish-configuration>
    (ersatz listen cache compression ttl negative-ttl bake-roots ipfs serve
            upload-limit metrics-listen advertise? extra-options)
    (define (option name value)
      (if (maybe-value-set? value)
          (list (string-append name "=" value))
          '()))
    (define command
      ;; It reads the private key as root, and goes on as the user.
      #~(list #$(file-append ersatz "/bin/ersatz") "publish" "--user=ersatz"
              #$(string-append "--cache=" cache)
              #$(string-append "--ttl=" ttl)
              #$(string-append "--negative-ttl=" negative-ttl)
              #$@(map (lambda (method) (string-append "--compression=" method))
                      compression)
              #$@(map (lambda (root) (string-append "--bake-roots=" root))
                      bake-roots)
              #$@(option "--ipfs" ipfs)
              #$@(map (lambda (url) (string-append "--serve=" url)) serve)
              #$@(option "--upload-limit" upload-limit)
              #$@(option "--metrics-listen" metrics-listen)
              #$@(if advertise? '("--advertise") '())
              #$@extra-options))
    (list (shepherd-service
           (provision '(ersatz-publish))
           (requirement '(user-processes guix-daemon))
           (documentation "Serve store items as nars and as ERIS blocks.")
           ;; Who bakes ahead, serves networks or is announced has work without a
           ;; request.
           (start #~(make-systemd-constructor
                     #$command
                     (list (endpoint #$(address listen)))
                     #:lazy-start? #$(and (null? bake-roots) (null? serve)
                                          (not advertise?))
                     #:log-file #$(log-file "ersatz-publish")))
           (stop #~(make-systemd-destructor))))))

(define ersatz-publish-service-type
  (service-type
   (name 'ersatz-publish)
   (extensions
    (list (service-extension shepherd-root-service-type
                             ersatz-publish-shepherd-services)
          (service-extension account-service-type
                             (const (system-account "ersatz" "ersatz publish")))
          (service-extension activation-service-type
                             (lambda (config)
                               (own-directory
                                (ersatz-publish-configuration-cache config)
                                "ersatz" #o755)))))
   (default-value (ersatz-publish-configuration))
   (description "Serve the store over HTTP, as @command{guix publish} does, and
as ERIS blocks.")))
